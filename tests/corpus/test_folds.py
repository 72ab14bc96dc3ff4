from __future__ import annotations

import math
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from command_line import ser
from hypothesis import given
from hypothesis import strategies as st

from ser_personal.corpus.csv_corpus import CSVCorpus, write_corpus
from ser_personal.corpus.folds import SIDES, folds, leave_speakers_out, personalization_gap
from ser_personal.corpus.splits import SpeakerSplits, known_speakers
from ser_personal.errors import UserError
from ser_personal.types import Utterance


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
def test_every_speaker_is_tested_once_in_one_set_a_fold(women, men, unnamed, folds, validation_folds, seed):
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


def test_folds_depend_on_the_seed_and_not_on_the_order():
    utterances = utterances_of(6, 6)
    orders = (utterances, random.Random(0).sample(utterances, len(utterances)))
    folds, shuffled, other = (
        [speakers_by_set(splits) for splits in leave_speakers_out(order, 4, seed=seed)]
        for order, seed in ((orders[0], 1), (orders[1], 1), (orders[0], 2))
    )
    assert folds == shuffled
    assert folds != other


@pytest.mark.parametrize(("folds", "validation_folds"), [(2, 1), (4, 0)])
def test_no_fold_left_for_a_set(folds, validation_folds):
    with pytest.raises(UserError, match="leave none for one of the three sets"):
        leave_speakers_out(utterances_of(9, 9), folds, validation_folds=validation_folds)
    with pytest.raises(UserError, match="4 known speakers don't fill 5 folds"):
        leave_speakers_out(utterances_of(2, 2), 5)


def test_a_written_corpus_reads_back(tmp_path):
    full = {"arousal": 1 / 3 + 1, "valence": 7.0, "dominance": math.nan}
    written = [
        Utterance('a, "b"', tmp_path / "audio" / "é, 1.wav", "train", "one, two", "female", labels=full, emotion="sad"),
        Utterance("b", tmp_path.parent / "b.flac", "validation", "second", labels=dict.fromkeys(full, math.nan)),
    ]
    write_corpus(written, tmp_path / "corpus.csv")
    for before, after in zip(written, CSVCorpus(str(tmp_path / "corpus.csv")).utterances, strict=True):
        assert after.labels == pytest.approx(before.labels, rel=0, abs=0, nan_ok=True)
        assert replace(after, labels={}, seconds=0) == replace(before, labels={}, seconds=0)


def test_relative_paths_are_of_the_place_where_the_table_was_written(tmp_path, monkeypatch):
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


def said(speaker: str | None, split: str, count: int) -> list[Utterance]:
    return [
        Utterance(f"{speaker}-{n:03}", Path(f"{speaker}-{n}.wav"), split, speaker, labels={"arousal": 4.0})
        for n in range(count)
    ]


def corpus_of(train: list[int], test: list[int]) -> list[Utterance]:
    utterances = [each for n, count in enumerate(train) for each in said(f"train{n}", "train", count)]
    utterances += [each for n, count in enumerate(test) for each in said(f"test{n}", "test1", count)]
    return utterances + said("held", "validation", 3)


def ids(utterances) -> set[str]:
    return {utterance.utterance_id for utterance in utterances}


@given(
    train=st.lists(st.integers(1, 9), min_size=6, max_size=12),
    test=st.lists(st.integers(2, 9), min_size=1, max_size=6),
    share=st.floats(0.05, 1),
    seed=st.integers(0, 2**31 - 1),
)
def test_sides_differ_in_whom_they_know_alone(train, test, share, seed):
    utterances = corpus_of(train, test)
    numbers = [len(test), len(train)]
    corpora = personalization_gap(utterances, numbers, share=share, seed=seed)
    tested = {f"test{n}" for n in range(len(test))}
    for number in numbers:
        dependent, independent = (corpora[number, side] for side in SIDES)
        assert known_speakers(dependent.test["test1"]) == tested
        assert dependent.test == independent.test == corpora[numbers[0], "dependent"].test
        assert dependent.validation == independent.validation
        assert len(dependent.train) == len(independent.train)
        assert tested <= known_speakers(dependent.train)
        assert not tested & known_speakers(independent.train)
        for splits in (dependent, independent):
            assert len(known_speakers(splits.train)) == number
            assert len(ids(splits.train)) == len(splits.train)
            assert not ids(splits.train) & ids(splits.test["test1"])
            assert {utterance.split for utterance in splits.train} == {"train"}
    largest = known_speakers(corpora[numbers[1], "independent"].train)
    assert known_speakers(corpora[numbers[0], "independent"].train) <= largest
    assert known_speakers(corpora[numbers[1], "dependent"].train) - tested <= largest


def test_a_gap_depends_on_the_seed_and_not_on_the_order():
    utterances = corpus_of([4] * 8, [6, 5, 4])
    shuffled = sorted(utterances, key=lambda utterance: utterance.utterance_id[::-1])
    one, same, other = (
        personalization_gap(each, [3, 7], seed=seed) for each, seed in ((utterances, 5), (shuffled, 5), (utterances, 6))
    )
    assert all(ids(splits.train) == ids(same[side].train) for side, splits in one.items())
    assert ids(other[3, "independent"].train) != ids(one[3, "independent"].train)


def test_the_first_half_of_those_who_say_most_is_trained_on():
    both = personalization_gap(corpus_of([9] * 4, [2, 6, 4]), [2], evaluation_speakers=2)
    assert ids(both[2, "dependent"].test["test1"]) == {f"test1-00{n}" for n in (3, 4, 5)} | {"test2-002", "test2-003"}
    assert ids(both[2, "dependent"].train) == {f"test1-00{n}" for n in (0, 1, 2)} | {"test2-000", "test2-001"}
    # thinned from 18 to 5
    assert sum(Counter(each.speaker_id for each in both[2, "independent"].train).values()) == 5


def test_who_is_unknown_or_unlabelled_is_left_out():
    silent = [Utterance(f"silent-{n}", Path("x.wav"), "train", f"silent{n}") for n in range(3)]
    utterances = [*corpus_of([3] * 4, [4]), *said(None, "train", 5), *silent]
    both = personalization_gap(utterances, [4])
    assert known_speakers(both[4, "independent"].train) == {f"train{n}" for n in range(4)}
    assert None not in {each.speaker_id for each in both[4, "dependent"].train}


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ({"speakers": [2]}, "speakers: 2 training speakers, where 3 are evaluated and the training set has 4"),
        ({"speakers": [5]}, "Give numbers from 3 to 4"),
        ({"speakers": []}, "names no number of speakers"),
        ({"evaluation_speakers": 4}, "split test1: has 3 speakers with two utterances, 4 are to be evaluated"),
        ({"test_split": "test3"}, "split test3: no such split"),
    ],
)
def test_what_cannot_be_made_is_one_line(arguments, line):
    with pytest.raises(UserError, match=line.replace("[", r"\[")):
        personalization_gap(corpus_of([3] * 4, [4] * 3), **{"speakers": [3], **arguments})


def test_the_command_writes_tables_that_a_corpus_reads(synthetic_corpus, tmp_path):
    out = tmp_path / "gap"
    assert ser("gap", synthetic_corpus, "--speakers", "[3,6]", "--out", out) == 0
    assert sorted(path.name for path in out.glob("*.csv")) == [
        f"speakers_{n}_{side}.csv" for n in (3, 6) for side in SIDES
    ]
    path = str(out / "speakers_3_dependent.csv")
    with pytest.raises(UserError, match="are in train as well"):
        _ = CSVCorpus(path).splits
    dependent = CSVCorpus(path, allow_overlap=["test1"]).splits
    independent = CSVCorpus(str(out / "speakers_3_independent.csv")).splits
    assert len(dependent.train) == len(independent.train)
    assert dependent.test == independent.test
