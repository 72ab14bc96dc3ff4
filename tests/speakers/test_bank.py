from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch
from garbage import files, is_read_or_refused, many_inputs
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from ser_personal.errors import UserError
from ser_personal.speakers.bank import FORMAT, SpeakerBank, SpeakerBankBuilder

ATTRIBUTES = ("arousal", "valence")
NAN = float("nan")


def some_utterances(num=50):
    rng = np.random.default_rng(7)
    speaker_ids = [None if s == 4 else f"speaker {s}" for s in rng.integers(0, 5, num)]
    labels = rng.uniform(1, 7, (num, 2))
    labels[rng.random((num, 2)) < 0.2] = NAN
    return speaker_ids, rng.normal(size=(num, 6)), labels


ARRAYS = ("vectors", "label_mean", "label_std", "training_mean", "training_std")


def assert_close(a, b):
    """The same but for float64 rounding."""
    assert a.speaker_ids == b.speaker_ids
    np.testing.assert_array_equal(a.count, b.count)
    for name in ARRAYS:
        np.testing.assert_allclose(getattr(a, name), getattr(b, name), rtol=1e-12, atol=1e-13)


def assert_same(a, b):
    for name in ("speaker_ids", "attributes", "scale", "fingerprint"):
        assert getattr(a, name) == getattr(b, name)
    for name in ("count", *ARRAYS):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
        assert getattr(a, name).dtype == getattr(b, name).dtype


def test_by_hand():
    bank = SpeakerBank.from_utterances(
        ["b", None, "a", "b", "b"],
        [[1.0, 0.0], [9.0, 9.0], [2.0, 2.0], [3.0, 0.0], [5.0, 3.0]],
        [[2.0, NAN], [7.0, 7.0], [NAN, NAN], [4.0, 5.0], [NAN, 5.0]],
        ATTRIBUTES,
    )
    assert bank.speaker_ids == ("a", "b")
    assert bank.vectors.tolist() == [[2, 2], [3, 1]]
    assert bank.count.tolist() == [[0, 0], [2, 2]]
    np.testing.assert_array_equal(bank.label_mean, [[NAN, NAN], [3, 5]])
    np.testing.assert_array_equal(bank.label_std, [[NAN, NAN], [1, 0]])
    assert (bank.attributes, bank.scale, bank.fingerprint) == (ATTRIBUTES, (1, 7), "")
    np.testing.assert_allclose(bank.training_mean, [11 / 4, 5 / 4])
    np.testing.assert_allclose(bank.training_std, np.sqrt([39 / 4 - (11 / 4) ** 2, 13 / 4 - (5 / 4) ** 2]))


def test_agrees_with_numpy_speaker_by_speaker_at_once_and_batch_by_batch():
    speaker_ids, pooled, labels = some_utterances()
    bank = SpeakerBank.from_utterances(speaker_ids, pooled, labels, ATTRIBUTES, scale=(0, 10), fingerprint="model")
    for row, speaker in enumerate(bank.speaker_ids):
        mine = np.array([s == speaker for s in speaker_ids])
        np.testing.assert_allclose(bank.vectors[row], pooled[mine].mean(axis=0), rtol=1e-12)
        np.testing.assert_array_equal(bank.count[row], np.isfinite(labels[mine]).sum(axis=0))
        np.testing.assert_allclose(bank.label_mean[row], np.nanmean(labels[mine], axis=0), rtol=1e-12)
        np.testing.assert_allclose(bank.label_std[row], np.nanstd(labels[mine], axis=0), rtol=1e-12)
    builder = SpeakerBankBuilder(ATTRIBUTES, scale=(0, 10), fingerprint="model")
    for start in range(0, 50, 7):
        part = slice(start, start + 7)
        builder.add(speaker_ids[part], pooled[part], labels[part])
    assert_close(builder.build(), bank)


def test_tensors_are_taken():
    speaker_ids, pooled, labels = some_utterances()
    pooled, labels = torch.tensor(pooled, dtype=torch.bfloat16, requires_grad=True), torch.tensor(labels)
    bank = SpeakerBank.from_utterances(speaker_ids, pooled, labels, ATTRIBUTES)
    arrays = pooled.detach().double().numpy(), labels.double().numpy()
    assert_same(bank, SpeakerBank.from_utterances(speaker_ids, *arrays, ATTRIBUTES))


def test_save_and_load_give_the_same_bank(tmp_path):
    path, reader = tmp_path / "new" / "bank.safetensors", tmp_path / "reader"
    bank = SpeakerBank.from_utterances(*some_utterances(), ATTRIBUTES, scale=(0.5, 5), fingerprint="abc é")
    bank.save(path)
    assert_same(SpeakerBank.load(path), bank)
    assert [file.name for file in path.parent.iterdir()] == ["bank.safetensors"]
    # a file is replaced, never written into
    reader.hardlink_to(path)
    nobody = SpeakerBank.from_utterances([None], np.ones((1, 3)), np.ones((1, 2)), ATTRIBUTES)
    assert nobody.vectors.shape == (0, 3)
    nobody.save(path)
    assert_same(SpeakerBank.load(path), nobody)
    assert_same(SpeakerBank.load(reader), bank)


def test_files_that_are_no_bank_are_refused(tmp_path):
    good = tmp_path / "good"
    SpeakerBank.from_utterances(*some_utterances(), ATTRIBUTES).save(good)
    (tmp_path / "truncated").write_bytes(good.read_bytes()[:-9])
    save_file({"weight": np.ones(3)}, tmp_path / "foreign")
    save_file(load_file(good), tmp_path / "newer", {"format": FORMAT, "version": "2"})
    save_file({"vectors": np.ones((1, 2))}, tmp_path / "partial", {"format": FORMAT, "version": "1"})
    for name, message in {
        "missing": "no speaker bank here",
        "truncated": "not a complete safetensors file",
        "foreign": "not a speaker bank",
        "newer": "format 2; this version reads 1",
        "partial": "damaged speaker bank",
    }.items():
        with pytest.raises(UserError, match=message) as error:
            SpeakerBank.load(tmp_path / name)
        assert str(tmp_path / name) in str(error.value)


def test_shapes_and_values_that_do_not_fit_are_named():
    with pytest.raises(UserError, match=r"labels \(1, 3\) are not .* arousal, valence"):
        SpeakerBank.from_utterances(["a"], np.ones((1, 3)), np.ones((1, 3)), ATTRIBUTES)
    with pytest.raises(UserError, match="speaker b: a pooled vector holds NaN"):
        SpeakerBank.from_utterances(["a", "b"], [[1.0], [NAN]], np.ones((2, 2)), ATTRIBUTES)
    builder = SpeakerBankBuilder(ATTRIBUTES)
    builder.add(["a"], np.ones((1, 3)), np.ones((1, 2)))
    with pytest.raises(UserError, match=r"\(1, 3\)"):
        builder.add(["a"], np.ones((1, 4)), np.ones((1, 2)))


@pytest.mark.parametrize(
    ("arrays", "metadata"),
    [
        ({"vectors": np.full((1, 2), NAN)}, {}),
        ({"label_mean": np.ones((1, 3))}, {}),
        ({"label_std": np.full((1, 2), NAN)}, {}),
        ({}, {"scale": "[1]"}),
    ],
)
def test_a_damaged_bank_is_to_be_deleted(arrays, metadata, tmp_path):
    bank = SpeakerBank.from_utterances(["a"], np.ones((1, 2)), np.ones((1, 2)), ATTRIBUTES)
    bank.save(tmp_path / "bank")
    with safe_open(tmp_path / "bank", framework="numpy") as file:
        written = file.metadata()
    save_file(load_file(tmp_path / "bank") | arrays, tmp_path / "bank", written | metadata)
    with pytest.raises(UserError, match=r"bank: damaged speaker bank \(.*\)\. Delete the file, and `ser test` builds"):
        SpeakerBank.load(tmp_path / "bank")


@many_inputs
@given(data=st.data())
def test_garbage_as_a_speaker_bank(data, tmp_path_factory):
    whole, path = (tmp_path_factory.getbasetemp() / f"{name}.safetensors" for name in ("whole", "garbage"))
    if not whole.exists():
        SpeakerBank.from_utterances(["a", "b"], np.eye(2), np.ones((2, 1)), ("arousal",)).save(whole)
    path.write_bytes(data.draw(files(whole.read_bytes())))
    is_read_or_refused(lambda: SpeakerBank.load(path))


@settings(max_examples=10)
@given(owners=st.lists(st.integers(0, 3), min_size=50, max_size=50), order=st.permutations(range(4)))
def test_sums_of_several_processes_merge_to_the_bank_of_one(tmp_path_factory, owners, order):
    folder = tmp_path_factory.mktemp("sums")
    speaker_ids, pooled, labels = some_utterances(50)
    # equal labels of one speaker keep a deviation of exactly 0
    labels[[speaker == "speaker 1" for speaker in speaker_ids]] = 0.1
    builders = [SpeakerBankBuilder(ATTRIBUTES, (1, 7), "model") for _ in range(4)]
    for owner, *utterance in zip(owners, speaker_ids, pooled, labels, strict=True):
        builders[owner].add(*([value] for value in utterance))
    for number, builder in enumerate(builders):
        builder.save(folder / str(number))
    first, *others = order
    for number in others:
        builders[first].merge(folder / str(number))
    merged = builders[first].build()
    expected = SpeakerBank.from_utterances(speaker_ids, pooled, labels, ATTRIBUTES, (1, 7), "model")
    assert_close(merged, expected)
    assert (merged.label_std[merged.speaker_ids.index("speaker 1")] == 0).all()


def test_a_bank_of_many_utterances_needs_the_memory_of_its_speakers(tmp_path):
    builder, rng = SpeakerBankBuilder(ATTRIBUTES), np.random.default_rng(0)
    batch = rng.normal(size=(100, 256)).astype(np.float32), rng.uniform(1, 7, (100, 2))
    tracemalloc.start()
    for _ in range(20):
        builder.add([f"s{speaker}" for speaker in rng.integers(0, 40, 100)], *batch)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # 2,000 utterances would be 4 MB in float64, 40 speakers are 82 kB
    assert peak < 1_000_000
