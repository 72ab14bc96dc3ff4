from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ser_personal.corpus.splits import SpeakerSplits, canonical_split, cut_adaptation
from ser_personal.errors import UserError
from ser_personal.types import Utterance


def utterance(number: int, split: str, speaker: str | None, seconds: float = 3.0) -> Utterance:
    return Utterance(f"u{number:03}", Path(f"u{number:03}.wav"), split, speaker, seconds=seconds)


SPELLINGS = {
    "train": ["Train", "training"],
    "validation": ["Validation", "Development", "dev", "VAL"],
    "test1": ["Test", "test", "Test1"],
    "test2": ["TEST2", " test_2 "],
    "test1_adaptation": ["test1_adaptation"],
    "held-out": ["Held-out"],
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_split_names_have_one_spelling(name):
    assert {canonical_split(spelling) for spelling in [*SPELLINGS[name], name]} == {name}


def test_sets_hold_every_utterance_in_order():
    utterances = [utterance(0, "test2", "a"), utterance(1, "train", "b"), utterance(2, "test2", "c")]
    splits = SpeakerSplits.from_utterances(utterances)
    assert splits.sets == {"train": (utterances[1],), "validation": (), "test2": (utterances[0], utterances[2])}


def test_overlap_names_speakers_and_remedy():
    utterances = [utterance(n, split, f"s{n % 5}") for n, split in enumerate(["train"] * 5 + ["test1"] * 5)]
    with pytest.raises(UserError, match=r"split test1: 5 .* s0, s1, s2 and 2 more.*allow_overlap"):
        SpeakerSplits.from_utterances(utterances)
    SpeakerSplits.from_utterances(utterances, allow_overlap=["test1"])
    with pytest.raises(UserError, match="split validation"):
        SpeakerSplits.from_utterances([*utterances, utterance(10, "validation", "s0")], allow_overlap=["test1"])


def test_unknown_speakers_and_test_sets_among_themselves_do_not_overlap():
    known = [utterance(0, "test1", "a"), utterance(1, "test2", "a"), utterance(2, "train", "b")]
    SpeakerSplits.from_utterances([*known, utterance(3, "train", None), utterance(4, "test1", None)])


@given(
    rows=st.lists(
        st.tuples(st.sampled_from(["a", "b", None]), st.sampled_from(["test1", "train"]), st.integers(1, 11))
    ),
    seconds=st.integers(1, 30),
)
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


def test_cut_of_no_such_set():
    with pytest.raises(UserError, match=r"test9: no such split. Choose among train, test1\."):
        cut_adaptation([utterance(0, "train", "a"), utterance(1, "test1", "b")], "test9")


@pytest.mark.parametrize(("speaker", "lengths"), [("b", [1]), (None, [1, 1]), ("b", [3, 3])])
def test_a_set_too_small_to_cut_is_refused(speaker, lengths):
    small = [utterance(n, "test1", speaker, length) for n, length in enumerate(lengths)]
    with pytest.raises(UserError, match=r"^split test1: can't be cut: .* 2 s .* Leave cut_test out, or name a split"):
        cut_adaptation(small, "test1", 2)
