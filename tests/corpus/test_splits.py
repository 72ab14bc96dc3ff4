import math
import random
from collections import Counter, defaultdict
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from command_line import ser
from garbage import refused
from hypothesis import given
from hypothesis import strategies as st

from ser_personal.corpus.csv_corpus import CSVCorpus, write_corpus
from ser_personal.corpus.folds import SIDES, folds, leave_speakers_out, personalization_gap
from ser_personal.corpus.splits import SpeakerSplits, canonical_split, cut_adaptation, known_speakers
from ser_personal.types import Utterance

ROWS = st.tuples(st.sampled_from(["a", "b", None]), st.sampled_from(["test1", "train"]), st.integers(1, 11))
GENDERS = st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(0, 5))
TRAINED = st.lists(st.integers(1, 9), min_size=6, max_size=12)
TESTED = st.lists(st.integers(2, 9), min_size=1, max_size=6)


def utterance(number: int, split: str, speaker: str | None, seconds: float = 3.0) -> Utterance:
    return Utterance(f"u{number:03}", Path(f"u{number:03}.wav"), split, speaker, seconds=seconds)


def test_split_names_have_one_spelling():
    names = {"train": "train Train training", "validation": "validation Validation Development dev VAL"}
    names |= {"test1": "test1 Test test Test1", "test2": "test2 TEST2 test_2", "held-out": "Held-out"}
    for name, spellings in names.items():
        assert {canonical_split(spelling) for spelling in spellings.split()} == {name}
    utterances = [utterance(0, "test2", "a"), utterance(1, "train", "b"), utterance(2, "test2", "c")]
    sets = SpeakerSplits.from_utterances(utterances).sets
    assert sets == {"train": (utterances[1],), "validation": (), "test2": (utterances[0], utterances[2])}


def test_known_speakers_of_training_are_in_no_other_set_unless_allowed():
    utterances = [utterance(n, split, f"s{n % 5}") for n, split in enumerate(["train"] * 5 + ["test1"] * 5)]
    refused(r"split test1: 5 .* s0, s1, s2 and 2 more.*allow_overlap", SpeakerSplits.from_utterances, utterances)
    others = [utterance(10, "test2", "a"), utterance(11, "test3", "a")]
    unknown = [utterance(12, "train", None), utterance(13, "test2", None)]
    SpeakerSplits.from_utterances([*utterances, *others, *unknown], allow_overlap=["test1"])
    held = [*utterances, utterance(14, "validation", "s0")]
    refused("split validation", SpeakerSplits.from_utterances, held, allow_overlap=["test1"])


@given(rows=st.lists(ROWS), seconds=st.integers(1, 30))
def test_cut_keeps_utterances_and_budget(rows, seconds):
    before = [utterance(n, split, speaker, length) for n, (speaker, split, length) in enumerate(rows)]
    # somebody can be cut
    before += [utterance(len(rows) + n, "test1", "c", 1) for n in range(2)]
    after = cut_adaptation(before, "test1", seconds)
    parts = defaultdict(lambda: defaultdict(list))
    for old, new in zip(before, after, strict=True):
        assert replace(new, split=old.split) == old
        if old.split == "train":
            assert new == old
        else:
            parts[new.speaker_id][new.split].append(new)
    for speaker, part in parts.items():
        adaptation, evaluation = part["test1_adaptation"], part["test1_evaluation"]
        assert evaluation
        budget = min(seconds, sum(u.seconds for u in adaptation + evaluation) / 2) if speaker else 0
        total = sum(u.seconds for u in adaptation)
        assert total <= budget < total + evaluation[0].seconds
        assert max((u.utterance_id for u in adaptation), default="") < evaluation[0].utterance_id


def test_segments_of_a_recording_are_cut_in_the_order_of_time():
    ids = [f"talk_{start}.000" for start in (0, 5, 10, 15, 20, 100)]
    rows = [replace(utterance(0, "test1", "a"), utterance_id=name) for name in random.Random(0).sample(ids, 6)]
    parts = {each.utterance_id: each.split for each in cut_adaptation(rows, "test1", 9)}
    assert [parts[name] for name in ids] == ["test1_adaptation"] * 3 + ["test1_evaluation"] * 3


def test_a_set_that_cannot_be_cut_is_refused():
    pair = [utterance(0, "train", "a"), utterance(1, "test1", "b")]
    refused(r"test9: no such split. Choose among train, test1\.", cut_adaptation, pair, "test9")
    for speaker, lengths in (("b", [1]), (None, [1, 1]), ("b", [3, 3])):
        small = [utterance(n, "test1", speaker, length) for n, length in enumerate(lengths)]
        refused("^split test1: can't be cut: .* 2 s", cut_adaptation, small, "test1", 2)


def said(speaker: str | None, split: str, count: int, label: float = 4.0, gender: str | None = None) -> list[Utterance]:
    names = [f"{speaker}-{n:03}" for n in range(count)]
    return [Utterance(name, Path(f"{name}.wav"), split, speaker, gender, labels={"arousal": label}) for name in names]


def utterances_of(women: int, men: int, unnamed: int = 0) -> list[Utterance]:
    """Two of each speaker."""
    kinds = (("female", "female", women), ("male", "male", men), ("nameless", None, unnamed))
    people = [(f"{name}{number}", gender) for name, gender, count in kinds for number in range(count)]
    return [each for name, gender in people for each in said(name, "whatever", 2, gender=gender)]


@given(genders=GENDERS, folds=st.integers(3, 7), validation_folds=st.integers(1, 5), seed=st.integers(0, 2**32))
def test_every_speaker_is_tested_once_in_one_set_a_fold(genders, folds, validation_folds, seed):
    utterances = utterances_of(*genders)
    if sum(genders) < folds or validation_folds > folds - 2:
        return
    assignments = leave_speakers_out(utterances, folds, validation_folds=validation_folds, seed=seed)
    sets = [{name: known_speakers(part) for name, part in splits.sets.items()} for splits in assignments]
    assert Counter(speaker for fold in sets for speaker in fold["test1"]) == Counter(known_speakers(utterances))
    for tested, fold in enumerate(sets):
        following = [sets[(tested + ahead) % folds]["test1"] for ahead in range(1, validation_folds + 1)]
        assert fold["validation"] == set().union(*following)
        assert fold["train"] == known_speakers(utterances) - fold["validation"] - fold["test1"] != set()
        assert sum(len(part) for part in assignments[tested].sets.values()) == len(utterances)
    for kind in ("female", "male", "nameless", ""):
        sizes = [sum(speaker.startswith(kind) for speaker in fold["test1"]) for fold in sets]
        assert max(sizes) - min(sizes) <= 1
    # by the seed alone, and not by the order
    shuffled = random.Random(seed).sample(utterances, len(utterances))
    again = leave_speakers_out(shuffled, folds, validation_folds=validation_folds, seed=seed)
    assert [known_speakers(splits.test["test1"]) for splits in again] == [fold["test1"] for fold in sets]


def test_a_written_corpus_reads_back_wherever_it_lies(tmp_path, monkeypatch):
    full = {"arousal": 1 / 3 + 1, "valence": 7.0, "dominance": math.nan}
    written = [
        Utterance('a, "b"', Path("audio/é, 1.wav"), "train", "one, two", "female", labels=full, emotion="sad"),
        Utterance("b", tmp_path.parent / "b.flac", "validation", "second", labels=dict.fromkeys(full, math.nan)),
    ]
    monkeypatch.chdir(tmp_path)
    write_corpus(written, Path("elsewhere/corpus.csv"))
    monkeypatch.chdir(tmp_path / "elsewhere")
    for before, after in zip(written, CSVCorpus("corpus.csv").utterances, strict=True):
        assert after.path.resolve() == tmp_path / before.path
        assert after.labels == pytest.approx(before.labels, rel=0, abs=0, nan_ok=True)
        assert replace(after, labels={}, seconds=0, path=before.path) == replace(before, labels={}, seconds=0)
    # a segment of audio that can't be read, without its end
    segment = replace(utterance(0, "train", "a", math.nan), start=1.0)
    refused("u000.wav, u000: can't be read, so where .* ends", write_corpus, [segment], tmp_path / "corpus.csv")


def test_the_command_writes_a_table_a_fold_and_names_a_scale_of_its_own(synthetic_corpus, tmp_path, caplog, capsys):
    folds(str(synthetic_corpus), count=4, out=str(tmp_path), seed=3)
    assert capsys.readouterr().out.endswith(f"{tmp_path}/fold_2.csv and 1 more\n")
    corpora = [CSVCorpus(str(tmp_path / f"fold_{number}.csv")) for number in range(4)]
    tested = [known_speakers(corpus.splits.test["test1"]) for corpus in corpora]
    assert sorted(speaker for speakers in tested for speaker in speakers) == sorted(map(str, range(1, 13)))
    assert all(len(corpus.utterances) == 72 for corpus in corpora)
    assert caplog.text == ""
    folds(CSVCorpus(str(tmp_path / "fold_0.csv"), scale=(0, 10)), count=4, out=str(tmp_path / "scaled"))
    assert "give 0 to 10 with each" in caplog.text


def corpus_of(train: list[int], test: list[int]) -> list[Utterance]:
    """Speakers who say so much, and one who is unknown and one without labels, who are left out."""
    utterances = [each for n, count in enumerate(train) for each in said(f"train{n}", "train", count)]
    utterances += [each for n, count in enumerate(test) for each in said(f"test{n}", "test1", count)]
    return [*utterances, *said("held", "validation", 3), *said(None, "train", 5), *said("x", "train", 3, math.nan)]


def ids(utterances) -> set[str]:
    return {utterance.utterance_id for utterance in utterances}


@given(train=TRAINED, test=TESTED, share=st.floats(0.05, 1), seed=st.integers(0, 2**31 - 1))
def test_sides_of_a_gap_differ_in_whom_they_know_alone(train, test, share, seed):
    utterances = corpus_of(train, test)
    numbers = [len(test), len(train)]
    corpora = personalization_gap(utterances, numbers, share=share, seed=seed)
    reversed_order = personalization_gap(utterances[::-1], numbers, share=share, seed=seed)
    assert all(ids(reversed_order[side].train) == ids(splits.train) for side, splits in corpora.items())
    tested, trained = ({f"{kind}{n}" for n in range(len(of))} for kind, of in (("test", test), ("train", train)))
    for number in numbers:
        dependent, independent = (corpora[number, side] for side in SIDES)
        assert known_speakers(dependent.test["test1"]) == tested
        assert dependent.test == independent.test == corpora[numbers[0], "dependent"].test
        assert dependent.validation == independent.validation
        assert len(dependent.train) == len(independent.train)
        assert tested <= known_speakers(dependent.train) <= tested | trained
        assert known_speakers(independent.train) <= trained
        for splits in (dependent, independent):
            assert (len(known_speakers(splits.train)), len(ids(splits.train))) == (number, len(splits.train))
            assert not ids(splits.train) & ids(splits.test["test1"])
    largest = known_speakers(corpora[numbers[1], "independent"].train)
    assert known_speakers(corpora[numbers[0], "independent"].train) <= largest
    assert known_speakers(corpora[numbers[1], "dependent"].train) - tested <= largest


def test_the_first_half_of_those_who_say_most_is_trained_on():
    both = personalization_gap(corpus_of([9] * 4, [2, 6, 4]), [2], evaluation_speakers=2)
    assert ids(both[2, "dependent"].test["test1"]) == {f"test1-00{n}" for n in (3, 4, 5)} | {"test2-002", "test2-003"}
    assert ids(both[2, "dependent"].train) == {f"test1-00{n}" for n in (0, 1, 2)} | {"test2-000", "test2-001"}
    # thinned from 18
    assert len(both[2, "independent"].train) == 5


def test_folds_and_a_gap_that_cannot_be_made_are_one_line():
    refused("leave one of the three sets empty", leave_speakers_out, utterances_of(9, 9), 2)
    refused("4 known speakers don't fill 5 folds", leave_speakers_out, utterances_of(2, 2), 5)
    gap = partial(personalization_gap, corpus_of([3] * 4, [4] * 3))
    for numbers in ([2], [5], []):
        refused("training speakers, where 3 are evaluated and the training set has 4", gap, numbers)
    refused("split test1: has 3 speakers with two utterances, 4 are to be evaluated", gap, [3], evaluation_speakers=4)
    refused("split test3: no such split", gap, [3], test_split="test3")


def test_the_command_writes_tables_of_a_gap_that_a_corpus_reads(synthetic_corpus, tmp_path):
    assert ser("gap", synthetic_corpus, "--speakers", "[3,6]", "--out", tmp_path) == 0
    names = [f"speakers_{n}_{side}.csv" for n in (3, 6) for side in SIDES]
    assert sorted(path.name for path in tmp_path.glob("*.csv")) == names
    dependent = CSVCorpus(str(tmp_path / names[0]), allow_overlap=["test1"]).splits
    assert dependent.test == CSVCorpus(str(tmp_path / names[1])).splits.test
