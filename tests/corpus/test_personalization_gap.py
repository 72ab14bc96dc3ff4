from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from command_line import ser
from hypothesis import given
from hypothesis import strategies as st

from ser_personal.corpus.csv_corpus import CSVCorpus
from ser_personal.corpus.folds import SIDES, personalization_gap
from ser_personal.corpus.splits import known_speakers
from ser_personal.errors import UserError
from ser_personal.types import Utterance


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
    evaluated = [corpora[number] for number in numbers]
    tested = {f"test{n}" for n in range(len(test))}
    for number, both in corpora.items():
        assert known_speakers(both.dependent.test["test1"]) == tested
        assert both.dependent.test == both.independent.test == evaluated[0].dependent.test
        assert both.dependent.validation == both.independent.validation
        assert len(both.dependent.train) == len(both.independent.train)
        assert tested <= known_speakers(both.dependent.train)
        assert not tested & known_speakers(both.independent.train)
        for side in (both.dependent, both.independent):
            assert len(known_speakers(side.train)) == number
            assert len(ids(side.train)) == len(side.train)
            assert not ids(side.train) & ids(side.test["test1"])
            assert {utterance.split for utterance in side.train} == {"train"}
    small, large = evaluated
    assert known_speakers(small.independent.train) <= known_speakers(large.independent.train)
    others = known_speakers(large.dependent.train) - tested
    assert others <= known_speakers(large.independent.train)


def test_the_order_of_the_utterances_does_not_matter():
    utterances = corpus_of([4] * 8, [6, 5, 4])
    shuffled = sorted(utterances, key=lambda utterance: utterance.utterance_id[::-1])
    one, other = (personalization_gap(each, [3, 7], seed=5) for each in (utterances, shuffled))
    for number in one:
        assert ids(one[number].dependent.train) == ids(other[number].dependent.train)
        assert ids(one[number].independent.train) == ids(other[number].independent.train)
    again = personalization_gap(utterances, [3, 7], seed=6)
    assert ids(again[3].independent.train) != ids(one[3].independent.train)


def test_the_first_half_of_those_who_say_most_is_trained_on():
    both = personalization_gap(corpus_of([9] * 4, [2, 6, 4]), [2], evaluation_speakers=2)[2]
    assert ids(both.dependent.test["test1"]) == {f"test1-00{n}" for n in (3, 4, 5)} | {"test2-002", "test2-003"}
    assert ids(both.dependent.train) == {f"test1-00{n}" for n in (0, 1, 2)} | {"test2-000", "test2-001"}
    # thinned from 18 to 5
    assert sum(Counter(each.speaker_id for each in both.independent.train).values()) == 5


def test_who_is_unknown_or_unlabelled_is_left_out():
    silent = [Utterance(f"silent-{n}", Path("x.wav"), "train", f"silent{n}") for n in range(3)]
    utterances = [*corpus_of([3] * 4, [4]), *said(None, "train", 5), *silent]
    both = personalization_gap(utterances, [4])[4]
    assert known_speakers(both.independent.train) == {f"train{n}" for n in range(4)}
    assert None not in {each.speaker_id for each in both.dependent.train}


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ({"speakers": [2]}, "speakers: 2 training speakers, where 3 are evaluated and the training set has 4"),
        ({"speakers": [5]}, "Give numbers from 3 to 4"),
        ({"speakers": []}, "names no number of speakers"),
        ({"evaluation_speakers": 4}, "split test1: has 3 speakers with two utterances, 4 are to be evaluated"),
        ({"test_split": "test3"}, "split test3: no such split"),
        ({"share": 0}, "share: 0 is out of range"),
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
    with pytest.raises(UserError, match="stand in train as well"):
        _ = CSVCorpus(path).splits
    dependent = CSVCorpus(path, allow_overlap=["test1"]).splits
    independent = CSVCorpus(str(out / "speakers_3_independent.csv")).splits
    assert len(dependent.train) == len(independent.train)
    assert dependent.test == independent.test
