from __future__ import annotations

import math
import random
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ser_personal.corpus.csv_corpus import CSVCorpus, write_corpus
from ser_personal.corpus.folds import folds, leave_speakers_out
from ser_personal.corpus.splits import SpeakerSplits, known_speakers
from ser_personal.errors import UserError
from ser_personal.types import ATTRIBUTES, Utterance


def utterances_of(women: int, men: int, unnamed: int = 0, each: int = 2) -> list[Utterance]:
    speakers = [(f"{gender}{n}", gender) for gender, count in (("female", women), ("male", men)) for n in range(count)]
    speakers += [(f"nameless{n}", None) for n in range(unnamed)]
    return [
        Utterance(f"{speaker}-{n}", Path(f"{speaker}-{n}.wav"), "whatever", speaker, gender)
        for speaker, gender in speakers
        for n in range(each)
    ]


def speakers_by_set(splits: SpeakerSplits) -> dict[str, set[str]]:
    return {name: known_speakers(part) for name, part in splits.sets.items()}


@given(
    women=st.integers(0, 9),
    men=st.integers(0, 9),
    unnamed=st.integers(0, 5),
    folds=st.integers(3, 7),
    validation_folds=st.integers(1, 5),
    seed=st.integers(0, 2**32),
)
def test_every_speaker_is_tested_once_and_stands_in_one_set_of_a_fold(
    women: int, men: int, unnamed: int, folds: int, validation_folds: int, seed: int
) -> None:
    utterances = utterances_of(women, men, unnamed)
    if women + men + unnamed < folds or validation_folds > folds - 2:
        return
    assignments = leave_speakers_out(utterances, folds, validation_folds=validation_folds, seed=seed)
    sets = [speakers_by_set(splits) for splits in assignments]
    assert Counter(speaker for fold in sets for speaker in fold["test1"]) == Counter(known_speakers(utterances))
    for tested, fold in enumerate(sets):
        following = [sets[(tested + ahead) % folds]["test1"] for ahead in range(1, validation_folds + 1)]
        assert fold["validation"] == set().union(*following)
        assert not fold["train"] & (fold["validation"] | fold["test1"])
        assert not fold["validation"] & fold["test1"]
        assert fold["train"]
        assert sum(len(part) for part in assignments[tested].sets.values()) == len(utterances)
    for kind in ("female", "male", "nameless", ""):
        sizes = [sum(speaker.startswith(kind) for speaker in fold["test1"]) for fold in sets]
        assert max(sizes) - min(sizes) <= 1


def test_folds_depend_on_the_seed_and_not_on_the_order() -> None:
    utterances = utterances_of(6, 6)
    shuffled = random.Random(0).sample(utterances, len(utterances))
    folds = [speakers_by_set(splits) for splits in leave_speakers_out(utterances, 4, seed=1)]
    assert folds == [speakers_by_set(splits) for splits in leave_speakers_out(shuffled, 4, seed=1)]
    assert folds != [speakers_by_set(splits) for splits in leave_speakers_out(utterances, 4, seed=2)]


def test_unknown_speakers_are_left_out() -> None:
    nobody = Utterance("nobody", Path("nobody.wav"), "train")
    for splits in leave_speakers_out([*utterances_of(3, 0), nobody], 3):
        assert "nobody" not in {utterance.utterance_id for part in splits.sets.values() for utterance in part}


def test_fewer_speakers_than_folds() -> None:
    with pytest.raises(UserError, match="4 known speakers don't fill 5 folds"):
        leave_speakers_out(utterances_of(2, 2), 5)


@pytest.mark.parametrize(("folds", "validation_folds"), [(2, 1), (4, 3), (4, 0)])
def test_no_fold_left_for_a_set(folds: int, validation_folds: int) -> None:
    with pytest.raises(UserError, match="leave none for one of the three sets"):
        leave_speakers_out(utterances_of(9, 9), folds, validation_folds=validation_folds)


def test_a_written_fold_reads_back(tmp_path: Path) -> None:
    full = {"arousal": 1 / 3 + 1, "valence": 7.0, "dominance": math.nan}
    utterances = [
        Utterance('a, "b"', tmp_path / "audio" / "é, 1.wav", "x", "one, two", "female", labels=full, emotion="sad"),
        Utterance("b", tmp_path / "b.flac", "x", "second"),
        Utterance("c", tmp_path / "c.flac", "x", "third", "male"),
    ]
    for number, splits in enumerate(leave_speakers_out(utterances, 3)):
        written = [utterance for part in splits.sets.values() for utterance in part]
        path = tmp_path / "folds" / str(number) / "corpus.csv"
        write_corpus(written, path)
        read = {utterance.utterance_id: utterance for utterance in CSVCorpus(str(path)).utterances}
        assert len(read) == 3
        for utterance in written:
            again = read[utterance.utterance_id]
            assert again.path.resolve() == utterance.path.resolve()
            for field in ("split", "speaker_id", "gender", "emotion"):
                assert getattr(again, field) == getattr(utterance, field)
            for attribute in ATTRIBUTES:
                before = utterance.labels.get(attribute, math.nan)
                assert again.labels[attribute] == pytest.approx(before, rel=0, abs=0, nan_ok=True)


def test_relative_paths_are_of_the_place_where_the_table_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_corpus([Utterance("a", Path("here/a.wav"), "train", "one")], Path("elsewhere/corpus.csv"))
    monkeypatch.chdir(tmp_path / "elsewhere")
    (read,) = CSVCorpus("corpus.csv").utterances
    assert read.path.resolve() == tmp_path / "here" / "a.wav"


def test_the_command_writes_a_table_a_fold(synthetic_corpus, tmp_path):
    folds(str(synthetic_corpus), count=4, out=str(tmp_path), seed=3)
    corpora = [CSVCorpus(str(tmp_path / f"fold_{number}.csv")) for number in range(4)]
    tested = [known_speakers(corpus.splits.test["test1"]) for corpus in corpora]
    assert sorted(speaker for speakers in tested for speaker in speakers) == sorted(map(str, range(1, 13)))
    assert all(len(corpus.utterances) == 72 for corpus in corpora)
