from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from garbage import files, is_read_or_refused, many_inputs, refused
from hypothesis import given, settings
from hypothesis import strategies as st

from ser_personal.speakers.bank import SpeakerBank, SpeakerBankBuilder

ATTRIBUTES = ("arousal", "valence")
NAN = float("nan")
TENSOR = partial(torch.tensor, dtype=torch.bfloat16, requires_grad=True)


def some_utterances():
    rng = np.random.default_rng(7)
    speaker_ids = [None if s == 4 else f"speaker {s}" for s in rng.integers(0, 5, 50)]
    labels = rng.uniform(1, 7, (50, 2))
    labels[rng.random((50, 2)) < 0.2] = NAN
    return speaker_ids, rng.normal(size=(50, 6)), labels


@pytest.mark.parametrize(("given_as", "nobody"), [(list, None), (TENSOR, NAN)])
def test_by_hand(given_as, nobody):
    pooled = [[1.0, 0.0], [9.0, 9.0], [2.0, 2.0], [3.0, 0.0], [5.0, 3.0]]
    labels = [[2.0, NAN], [7.0, 7.0], [NAN, NAN], [4.0, 5.0], [NAN, 5.0]]
    bank = SpeakerBank.from_utterances(["b", nobody, "a", "b", "b"], given_as(pooled), given_as(labels), ATTRIBUTES)
    assert (bank.speaker_ids, bank.vectors.tolist()) == (("a", "b"), [[2, 2], [3, 1]])
    assert bank.count.tolist() == [[0, 0], [2, 2]]
    np.testing.assert_array_equal(bank.label_mean, [[NAN, NAN], [3, 5]])
    np.testing.assert_array_equal(bank.label_std, [[NAN, NAN], [1, 0]])
    np.testing.assert_allclose(bank.training_mean, [11 / 4, 5 / 4])
    np.testing.assert_allclose(bank.training_std, np.sqrt([39 / 4 - (11 / 4) ** 2, 13 / 4 - (5 / 4) ** 2]))


def test_save_and_load_give_the_same_bank(tmp_path):
    path = tmp_path / "new" / "bank.safetensors"
    bank = SpeakerBank.from_utterances(*some_utterances(), ATTRIBUTES, scale=(0.5, 5), fingerprint="abc é")
    nobody = SpeakerBank.from_utterances([None], np.ones((1, 3)), np.ones((1, 2)), ATTRIBUTES)
    assert nobody.vectors.shape == (0, 3)
    for saved in (bank, nobody):
        saved.save(path)
        loaded = SpeakerBank.load(path)
        for name, value in vars(saved).items():
            np.testing.assert_array_equal(getattr(loaded, name), value, strict=True)


def test_shapes_and_values_that_do_not_fit_are_named():
    made, ones = partial(SpeakerBank.from_utterances, attributes=ATTRIBUTES), np.ones((2, 2))
    refused(r"labels \(2, 3\) are not .* arousal, valence", made, ["a", "b"], ones, np.ones((2, 3)))
    for pooled, labels in ([[[1.0], [NAN]], ones], [ones, [[1, NAN], [2, np.inf]]]):
        refused("speaker b: a pooled vector or a label isn't finite", made, ["a", "b"], pooled, labels)
    refused("scale: .* is an empty range or an endless one", made, ["a", "b"], ones, ones, scale=(NAN, 7))


def test_labels_of_a_speaker_without_their_statistics_are_damage(tmp_path):
    bank = SpeakerBank.from_utterances(["a"], np.ones((1, 2)), np.ones((1, 2)), ATTRIBUTES)
    replace(bank, label_std=np.full((1, 2), NAN)).save(tmp_path / "bank")
    refused(r"damaged one \(.*don't fit\)\. Delete it, and `ser test` builds", SpeakerBank.load, tmp_path / "bank")


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
    speaker_ids, pooled, labels = some_utterances()
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
    assert merged.speaker_ids == expected.speaker_ids
    np.testing.assert_array_equal(merged.count, expected.count)
    for name in ("vectors", "label_mean", "label_std", "training_mean", "training_std"):
        np.testing.assert_allclose(getattr(merged, name), getattr(expected, name), rtol=1e-12, atol=1e-13)
