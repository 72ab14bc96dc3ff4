from __future__ import annotations

import json
from pathlib import Path
from shutil import copytree
from typing import TYPE_CHECKING

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st

from ser_personal.data.batching import ExampleKey
from ser_personal.data.dataset import Fault, SpeechDataset, SpeechExample
from ser_personal.data.emotion import EmotionDataModule
from ser_personal.data.loader import BadAudio, BadAudioTally, LenientDataset, SkippedAudio
from ser_personal.data.pretrain import PretrainDataModule
from ser_personal.errors import UserError
from ser_personal.types import NO_PSEUDO_LABEL, Utterance

if TYPE_CHECKING:
    from ser_personal.data.loader import SpeechLoader

UTTERANCES = [Utterance(f"u{k}", Path(f"u{k}.wav"), "train") for k in range(12)]
LENGTHS = [100 * (k + 1) for k in range(12)]


class SomeBad(SpeechDataset[SpeechExample]):
    """Audio of the given utterances can't be decoded."""

    def __init__(self, bad: set[int]) -> None:
        super().__init__(UTTERANCES, max_samples=10_000)
        self.bad = bad

    def __getitem__(self, key: ExampleKey) -> SpeechExample:
        if key.index in self.bad:
            raise UserError("can't be decoded", where=self.utterances[key.index].path, remedy="Mend it")
        return SpeechExample(key.index, None, np.zeros(LENGTHS[key.index], dtype=np.float32))


def lenient(bad: set[int], max_share: float = 1.0) -> LenientDataset[SpeechExample]:
    return LenientDataset(SomeBad(bad), range(12), LENGTHS, max_share)


def keys(indices: list[int]) -> list[ExampleKey]:
    return [ExampleKey(index, epoch=3) for index in indices]


SETS = st.sets(st.integers(0, 11))


@given(bad=SETS, batch=st.lists(st.integers(0, 11), min_size=1, unique=True))
def test_a_batch_keeps_what_is_good_and_is_never_empty(bad: set[int], batch: list[int]) -> None:
    fetched = lenient(bad).__getitems__(keys(batch))
    good = [index for index in batch if index not in bad]
    if len(bad) == 12:
        assert isinstance(fetched, Fault)
        return
    indices = [example.index for example in fetched.examples]
    assert indices[: len(good)] == good
    assert len(indices) == max(len(good), min(2, len(batch), 12 - len(bad)))
    assert not bad & set(indices)
    assert len(set(indices)) == len(indices)
    assert {one.index for one in fetched.bad} >= set(batch) & bad


def test_what_stands_in_is_nearest_in_length() -> None:
    fetched = lenient({4, 5, 6}).__getitems__(keys([5]))
    assert [example.index for example in fetched.examples] == [7]
    assert [one.index for one in fetched.bad] == [5, 6, 4]


@given(bad=SETS, batch=st.lists(st.integers(0, 11), min_size=1, unique=True))
def test_nothing_stands_in_where_each_utterance_counts_once(bad: set[int], batch: list[int]) -> None:
    dataset = LenientDataset(SomeBad(bad), range(12), LENGTHS, 1.0, fills_up=False)
    fetched = dataset.__getitems__(keys(batch))
    assert [example.index for example in fetched.examples] == [index for index in batch if index not in bad]
    assert [one.index for one in fetched.bad] == [index for index in batch if index in bad]


def test_nothing_stands_in_once_too_much_is_bad() -> None:
    fetched = lenient(set(range(11)), max_share=0.2).__getitems__(keys([0, 1]))
    assert isinstance(fetched, Fault)
    assert "more than the 20.0% that may be skipped" in fetched.what


def bad(*indices: int) -> list[BadAudio]:
    return [BadAudio.of(index, UTTERANCES[index], "is truncated") for index in indices]


def test_each_file_is_listed_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    skipped = SkippedAudio(1.0)
    skipped.add(bad(3))
    skipped.keep_in(tmp_path / "run" / "skipped_audio.json")
    skipped.add(bad(3, 5))
    skipped.add(bad(5))
    assert caplog.messages == [f"left out of train: u{k}.wav: is truncated" for k in (3, 5)]
    content = json.loads((tmp_path / "run" / "skipped_audio.json").read_text())
    assert [one["utterance"] for one in content["skipped"]] == ["u3", "u5"]
    assert content["skipped"][0] == {"utterance": "u3", "path": "u3.wav", "split": "train", "reason": "is truncated"}


@pytest.mark.parametrize(("max_share", "stops"), [(0.3, False), (0.29, True)])
def test_one_process_counts_exactly(max_share: float, *, stops: bool) -> None:
    tally = BadAudioTally(SkippedAudio(max_share), utterances=8, left_out_before=2, processes=1, where="split train")
    tally.add([0, 1, 2], [])
    if stops:
        with pytest.raises(UserError, match=r"split train: 30\.0% of the audio can't be used, more than the 29\.0%"):
            tally.add([3], bad(4))
    else:
        for _ in range(3):
            tally.add([3], bad(4))


def test_one_of_several_processes_goes_by_what_it_has_met() -> None:
    tally = BadAudioTally(SkippedAudio(0.4), utterances=8, left_out_before=0, processes=4, where="split train")
    with pytest.raises(UserError, match=r"50\.0%"):
        tally.add([0], bad(1))
    met = BadAudioTally(SkippedAudio(0.4), utterances=8, left_out_before=0, processes=4, where="split train")
    met.add([0, 2, 3], [])
    met.add([0], bad(1))


@pytest.fixture
def folder(corpus_folder: Path, tmp_path: Path) -> Path:
    """The corpus of noise, where the header shows u03 to be bad, and only decoding u05, u06 and the test set's u33."""
    copy = copytree(corpus_folder, tmp_path / "corpus")
    (copy / "u03.wav").write_bytes(b"noise")
    for name in ("u05", "u06", "u33"):
        samples, rate = soundfile.read(copy / f"{name}.wav")
        samples[7_000] = np.nan
        soundfile.write(copy / f"{name}.wav", samples, rate, subtype="FLOAT")
    return copy


def seen(loader: SpeechLoader) -> list[list[int]]:
    return [batch["indices"].tolist() for batch in loader]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_fine_tuning_leaves_bad_audio_out(folder: Path, num_workers: int) -> None:
    options = {"max_batch": 4, "num_workers": num_workers, "on_bad_audio": "skip"}
    data = EmotionDataModule(str(folder), max_bad_share=0.2, **options)
    data.setup("fit")
    for _ in range(2):
        batches = seen(data.train_dataloader())
        assert sorted(index for batch in batches for index in batch) == [
            index for index in range(24) if index not in {3, 5, 6}
        ]
        assert len(batches) == len(data.train_dataloader())
    assert sorted(one.index for one in data.skipped_audio) == [3, 5, 6]
    assert data.left_out("train", 21) == 3


def test_more_than_the_share_stops_a_run(folder: Path) -> None:
    options = {"max_batch": 4, "num_workers": 0, "on_bad_audio": "skip"}
    with pytest.raises(UserError, match=r"split train: 4\.0% .* more than the 3\.0%"):
        EmotionDataModule(str(folder), max_bad_share=0.03, **options).setup("fit")
    data = EmotionDataModule(str(folder), max_bad_share=0.1, **options)
    data.setup("fit")
    with pytest.raises(UserError, match=r"split train: 12\.5% .* raise data\.max_bad_share"):
        seen(data.train_dataloader())


def test_bad_audio_raises_unless_told_otherwise(folder: Path) -> None:
    with pytest.raises(UserError, match=r"u33\.wav: holds NaN"):
        seen(EmotionDataModule(str(folder), num_workers=0).split_dataloader("test2"))


def test_a_share_of_a_set_holds_each_utterance_once_and_no_empty_batch(folder: Path) -> None:
    options = {"max_batch": 1, "num_workers": 0, "on_bad_audio": "skip"}
    data = EmotionDataModule(str(folder), max_bad_share=0.2, **options)
    assert seen(data.share_dataloader("train")) == [[index] for index in range(23, -1, -1) if index not in {3, 5, 6}]


def test_a_set_of_nothing_but_bad_audio_stops_a_run(folder: Path) -> None:
    data = EmotionDataModule(str(folder), num_workers=0, on_bad_audio="skip", max_bad_share=0.5)
    with pytest.raises(UserError, match=r"u33\.wav: 100\.0% of the audio"):
        seen(data.split_dataloader("test2"))


def test_a_test_counts_what_stands_in_once(folder: Path) -> None:
    data = EmotionDataModule(str(folder), max_batch=1, num_workers=0, on_bad_audio="skip", max_bad_share=0.5)
    data.setup("test")
    batches = seen(data.test_dataloader())
    assert len(batches) == 4
    assert {index for batch in batches for index in batch} == {30, 31, 32}


def test_pretraining_leaves_bad_audio_out(folder: Path, pseudo_labels_folder: Path) -> None:
    data = PretrainDataModule(
        str(folder),
        pseudo_labels=str(pseudo_labels_folder),
        min_samples=9_600,
        batch_seconds=0.8,
        max_samples=12_000,
        num_workers=0,
        on_bad_audio="skip",
        max_bad_share=0.5,
    )
    data.setup("fit")
    loader = data.train_dataloader()
    batches = list(loader)
    assert len(batches) == len(loader)
    held_out = {index for batch in data.val_dataloader()[0] for index in batch["indices"].tolist()}
    first = {index for batch in batches for index in batch["indices"].tolist()}
    assert first | held_out == set(range(2, 24)) - {3, 5, 6}
    stood_in = [batch for batch in batches if bool((batch["pseudo_labels"] == NO_PSEUDO_LABEL).all())]
    assert len(stood_in) == len({5, 6} & set(data.train_indices)) > 0
    assert all(torch.isfinite(batch["waveforms"]).all() for batch in batches)


def test_statistics_of_training_audio_do_without_bad_audio(folder: Path) -> None:
    data = EmotionDataModule(str(folder), num_workers=0, on_bad_audio="skip", max_bad_share=0.2)
    assert len(list(data.training_audio(100))) == 21
    (folder / "u03.wav").unlink()
    with pytest.raises(UserError, match=r"u03\.wav: audio is missing"):
        list(EmotionDataModule(str(folder)).training_audio(100))
