"""Shards of an annotation: which recordings each has, and how they become one table again."""

from __future__ import annotations

import re
from contextlib import ExitStack, closing
from heapq import merge
from operator import itemgetter
from typing import TYPE_CHECKING, NamedTuple, Self, TypeVar

from ser_personal.annotation.journal import Journal
from ser_personal.errors import UserError
from ser_personal.files import content_hash

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from ser_personal.recognition.profiles import SpeakerProfile
    from ser_personal.recognition.recognizer import Row
    from ser_personal.recognition.recordings import Recording

Part = TypeVar("Part")


class Shard(NamedTuple):
    """The `number`th, from 1, of `total` shards."""

    number: int
    total: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read it from `3/64`."""
        found = re.fullmatch(r"(\d+)/(\d+)", text)
        shard = cls(*map(int, found.groups())) if found else cls(0, 0)
        if not 1 <= shard.number <= shard.total:
            count = shard.total or 64
            remedy = f"Give 1/{count} to {count}/{count}"
            raise UserError(f"{text} is no shard", where="--shard", remedy=remedy)
        return shard

    def path(self, target: Path) -> Path:
        """Where it is written, by the name of the whole."""
        return target.with_name(f"{target.stem}.{self.number}-of-{self.total}{target.suffix}")


def journal_of(target: Path) -> Path:
    """Where the journal of an output lies."""
    return target.with_name(f"{target.name}.partial")


def deal(recordings: Sequence[Recording], count: int) -> list[list[int]]:
    """Places in the list of the recordings of each shard, by a hash of their speaker, or of their name where unknown.

    A speaker's recordings are in one shard, and so are those of speakers who share a recording.
    """
    leader: dict[str, str] = {}

    def lead(name: str) -> str:
        while leader.setdefault(name, name) != name:
            leader[name] = leader[leader[name]]
            name = leader[name]
        return name

    speakers = [sorted(name for name in recording.speaker_ids if name is not None) for recording in recordings]
    for names in speakers:
        for name in names[1:]:
            first, second = sorted((lead(names[0]), lead(name)))
            leader[second] = first
    dealt: list[list[int]] = [[] for _ in range(count)]
    for place, (recording, names) in enumerate(zip(recordings, speakers, strict=True)):
        key = content_hash("speaker", lead(names[0])) if names else content_hash("recording", recording.source)
        dealt[int(key, 16) % count].append(place)
    return dealt


class JoinedJournals:
    """The journals of all shards of an output as if they were one, of a run that was never dealt.

    Args:
        target: the output.
        recordings: all of them.
        settings: of the run; shards with others are refused.

    Raises:
        UserError: a shard is missing, isn't done, or was made with other settings.
    """

    def __init__(self, target: Path, recordings: Sequence[Recording], settings: Mapping[str, object]) -> None:
        names = [path.name for path in target.parent.glob("*.partial")] if target.parent.is_dir() else []
        form = re.compile(rf"{re.escape(target.stem)}\.\d+-of-(\d+){re.escape(target.suffix)}\.partial")
        counts = sorted({int(found[1]) for found in map(form.fullmatch, names) if found})
        if len(counts) != 1:
            what, remedy = "has no shard beside it", "Make them first, with --shard 1/64 and so on"
            if counts:
                what, remedy = f"has shards of {' and of '.join(map(str, counts))} beside it", "Delete those of one"
            raise UserError(what, where=target, remedy=remedy)
        self.done = 0
        self.profiles: dict[str, SpeakerProfile] = {}
        self._dealt = deal(recordings, counts[0])
        self._journals: list[Journal] = []
        lacking = []
        with ExitStack() as opened:
            for number, places in enumerate(self._dealt, 1):
                shard = Shard(number, counts[0])
                path = journal_of(shard.path(target))
                if not path.exists():
                    lacking.append(shard)
                    continue
                journal = opened.enter_context(closing(Journal(path, {**settings, "shard": shard})))
                lacking += [shard] if journal.done < len(places) else []
                self._journals.append(journal)
                self.profiles.update(journal.profiles)
                self.done += journal.done
            if lacking:
                some = ", ".join(f"{shard.number}/{shard.total}" for shard in lacking[:5])
                what = f"lacks {len(lacking)} of its {counts[0]} shards, or they aren't done: {some}"
                raise UserError(what, where=target, remedy=f"Run --shard {some.partition(',')[0]} and so on first")
            self._opened = opened.pop_all()

    def rows(self) -> Iterator[Row]:
        """All rows, in the order of the list of recordings."""
        return _merged(self._dealt, [journal.numbered_rows() for journal in self._journals])

    def vectors(self) -> Iterator[bytes]:
        """Their vectors, in that order."""
        return _merged(self._dealt, [journal.numbered_vectors() for journal in self._journals])

    def failures(self) -> list[dict[str, str]]:
        """All failures, in that order."""
        return list(_merged(self._dealt, [iter(journal.numbered_failures()) for journal in self._journals]))

    def close(self) -> None:
        """Let other runs open the files."""
        self._opened.close()

    def delete(self) -> None:
        """Delete the files."""
        for journal in self._journals:
            journal.delete()


def _merged(dealt: Sequence[Sequence[int]], parts: Sequence[Iterator[tuple[int, Part]]]) -> Iterator[Part]:
    """What shards have of their recordings, by number, in the order of all recordings."""
    return map(itemgetter(1), merge(*map(_placed, dealt, parts), key=itemgetter(0)))


def _placed(places: Sequence[int], part: Iterator[tuple[int, Part]]) -> Iterator[tuple[int, Part]]:
    for number, content in part:
        yield places[number], content
