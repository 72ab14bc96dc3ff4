"""Which utterances train, validate and test, and which speakers those sets may share."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from math import isnan
from typing import TypeVar

from ser_personal.audio import by_numbers
from ser_personal.errors import UserError
from ser_personal.types import Utterance

_SYNONYMS = {"training": "train", **dict.fromkeys(("development", "dev", "val", "valid"), "validation")}
# ends the name of the part of a test split whose audio adapts the model, and on which it isn't tested
ADAPTATION = "_adaptation"
_NUMBERED_TEST = re.compile(r"test[ _-]?(\d{0,9})")


def canonical_split(name: str) -> str:
    """Bring Train, Development, dev, val, Test, Test2, ... in any case to train, validation, test1, test2, ...

    Any other name is returned in lower case.
    """
    name = name.strip().lower()
    if numbered := _NUMBERED_TEST.fullmatch(name):
        return f"test{int(numbered[1] or 1)}"
    return _SYNONYMS.get(name, name)


def canonical_splits(names: Iterable[str]) -> list[str]:
    """Bring splits' names to their one spelling, each once, in the order given."""
    return list(dict.fromkeys(canonical_split(name) for name in names))


@dataclass(frozen=True)
class SpeakerSplits:
    """A corpus's splits, none of which shares speakers with training unless allowed."""

    train: tuple[Utterance, ...]
    validation: tuple[Utterance, ...]
    test: dict[str, tuple[Utterance, ...]]  # name -> utterances, of all other splits
    allow_overlap: tuple[str, ...] = ()  # canonical names of splits that may share speakers with training

    def __post_init__(self) -> None:
        for name, speakers in shared_speakers(self.sets).items():
            if name not in self.allow_overlap:
                what = f"{len(speakers)} of its speakers are in train as well: {first_few(speakers)}"
                remedy = "Move them to one split, or name the split in the corpus's allow_overlap"
                raise UserError(what, where=f"split {name}", remedy=remedy)

    @classmethod
    def from_utterances(cls, utterances: Iterable[Utterance], allow_overlap: Iterable[str] = ()) -> SpeakerSplits:
        """Gather utterances by the split each one names, in the order given."""
        sets = by_split(utterances)
        return cls(sets.pop("train", ()), sets.pop("validation", ()), sets, tuple(allow_overlap))

    @property
    def sets(self) -> dict[str, tuple[Utterance, ...]]:
        """Every split by its name, train and validation first."""
        return {"train": self.train, "validation": self.validation, **self.test}


Key = TypeVar("Key", bound=Hashable)
Member = TypeVar("Member")


def grouped(pairs: Iterable[tuple[Key, Member]]) -> dict[Key, list[Member]]:
    """Gather what comes under the same key, in the order given."""
    groups = defaultdict(list)
    for key, member in pairs:
        groups[key].append(member)
    return dict(groups)


def by_split(utterances: Iterable[Utterance]) -> dict[str, tuple[Utterance, ...]]:
    """Gather utterances by the split each one names: train, validation, then the others by name."""
    sets = grouped((utterance.split, utterance) for utterance in utterances)
    order = sorted(sets, key=lambda name: (name != "train", name != "validation", name))
    return {name: tuple(sets[name]) for name in order}


def shared_speakers(sets: Mapping[str, Sequence[Utterance]], of: str = "train") -> dict[str, list[str]]:
    """Find the known speakers, sorted, that other splits share with one; splits that share none are left out."""
    own = known_speakers(sets.get(of, ()))
    shared = {name: sorted(own & known_speakers(sets[name])) for name in sets if name != of}
    return {name: speakers for name, speakers in shared.items() if speakers}


def known_speakers(utterances: Iterable[Utterance]) -> set[str]:
    """Gather the speakers of some utterances, unknown ones left out."""
    return {utterance.speaker_id for utterance in utterances if utterance.speaker_id is not None}


def by_speaker(utterances: Iterable[Utterance]) -> dict[str, list[Utterance]]:
    """Gather the utterances of each known speaker, speakers sorted, in the order of their ids.

    Numbers count by value: m_2.000 is before m_10.000, as segments of a recording follow each other.
    """
    ordered = sorted(utterances, key=lambda utterance: (by_numbers(utterance.utterance_id), utterance.utterance_id))
    own = grouped((each.speaker_id, each) for each in ordered if each.speaker_id is not None)
    return dict(sorted(own.items()))


def cut_adaptation(utterances: Sequence[Utterance], name: str, seconds: float = 200.0) -> list[Utterance]:
    """Cut a split's speakers into an adaptation and an evaluation part, as the paper's test-a and test-b seem to be.

    Each speaker's whole utterances enter `<name>_adaptation` in the order of their ids, as long as they fit in
    `seconds`; the rest make up `<name>_evaluation`. Ours: the adaptation part never exceeds half of a speaker's audio,
    so that every speaker is evaluated, and unknown speakers are only evaluated. Ids that follow the recordings
    in time keep neighbouring utterances of one conversation together. Utterances without a duration are only evaluated.
    """
    sets = by_split(utterances)
    require_split(name, sets)
    adaptation = set()
    for own in by_speaker(each for each in sets[name] if not isnan(each.seconds)).values():
        totals = list(accumulate(utterance.seconds for utterance in own))
        room = min(seconds, totals[-1] / 2)
        adaptation |= {each.utterance_id for each, total in zip(own, totals, strict=True) if total <= room}
    if not adaptation:
        what = f"can't be cut: no speaker's first utterance fits in {seconds:g} s and in half of the speaker's audio"
        remedy = "Leave cut_test out, or name a split of known speakers with several utterances each"
        raise UserError(what, where=f"split {name}", remedy=remedy)

    def renamed(utterance: Utterance) -> Utterance:
        part = ADAPTATION if utterance.utterance_id in adaptation else "_evaluation"
        return replace(utterance, split=f"{name}{part}") if utterance.split == name else utterance

    return [renamed(utterance) for utterance in utterances]


def require_split(name: str, existing: Collection[str]) -> None:
    """Refuse a split that a corpus doesn't have."""
    if name not in existing:
        raise UserError("no such split", where=f"split {name}", remedy=f"Choose among {', '.join(existing)}")


def first_few(names: Sequence[str], count: int = 3) -> str:
    """Write out the first names of a list, and how many more there are."""
    more = len(names) - count
    return ", ".join(names[:count]) + (f" and {more:,} more" if more > 0 else "")
