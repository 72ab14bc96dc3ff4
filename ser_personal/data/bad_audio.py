"""Audio that is left out because it can't be used: listed once, counted, and too much for a run past a share."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, Literal

from ser_personal.errors import UserError
from ser_personal.files import write_whole

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from ser_personal.types import Utterance

OnBadAudio = Literal["raise", "skip"]

SKIPPED_AUDIO = "skipped_audio.json"

FORMAT = "ser_personal.skipped_audio"
FORMAT_VERSION = 1

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BadAudio:
    """One utterance that was left out.

    Attributes:
        index: position in the datamodule's `utterances`.
        utterance_id: its name there.
        path: the audio file.
        split: the set that it is missing from.
        reason: what is wrong with the audio.
    """

    index: int
    utterance_id: str
    path: str
    split: str
    reason: str

    @classmethod
    def of(cls, index: int, utterance: Utterance, reason: str) -> BadAudio:
        """Say of an utterance why it is left out."""
        return cls(index, utterance.utterance_id, str(utterance.path), utterance.split, reason)


class SkippedAudio:
    """The list of what one process left out, each file once, in the log and in a file.

    Args:
        max_share: of a set; a run stops at more.
    """

    def __init__(self, max_share: float) -> None:
        self.max_share = max_share
        self._bad: dict[int, BadAudio] = {}
        self._file: Path | None = None

    def __iter__(self) -> Iterator[BadAudio]:
        return iter(self._bad.values())

    def keep_in(self, file: Path) -> None:
        """Write the list to this file, now and whenever it grows."""
        self._file = file
        self._write()

    def add(self, bad: Sequence[BadAudio]) -> None:
        """List what isn't listed yet."""
        new = {one.index: one for one in bad if one.index not in self._bad}
        self._bad |= new
        for one in new.values():
            _log.warning("left out of %s: %s: %s", one.split, one.path, one.reason)
        if new:
            self._write()

    def save(self, path: Path) -> None:
        """Write the list for another process to take up."""
        path.write_text(json.dumps([asdict(one) for one in self]))

    def take_up(self, paths: Iterable[Path]) -> None:
        """List what other processes left out, which they have said in the log."""
        for path in paths:
            self._bad |= {one["index"]: BadAudio(**one) for one in json.loads(path.read_text())}
        self._write()

    def refuse_too_many(self, bad: float, among: float, where: str) -> None:
        """Stop a run that leaves out more than it may.

        Args:
            bad: utterances left out.
            among: utterances that the set would have.
            where: names the set.

        Raises:
            UserError: it is more than the share.
        """
        if bad > self.max_share * among:
            raise too_many(bad / among, self.max_share, where)

    def _write(self) -> None:
        if self._file is not None and self._bad:
            skipped = [
                {"utterance": one.utterance_id, "path": one.path, "split": one.split, "reason": one.reason}
                for one in sorted(self, key=attrgetter("index"))
            ]
            content = {
                "format": FORMAT,
                "format_version": FORMAT_VERSION,
                "max_bad_share": self.max_share,
                "skipped": skipped,
            }
            write_whole(self._file, f"{json.dumps(content, indent=2)}\n".encode())


def list_in(folder: Path, skipped: SkippedAudio | None) -> None:
    """Keep a list in a folder, in the place of an earlier run's; None where nothing is skipped."""
    file = folder / SKIPPED_AUDIO
    file.unlink(missing_ok=True)
    if skipped is not None:
        skipped.keep_in(file)


class BadAudioTally:
    """Counts what one process's loader of a set leaves out.

    A process sees its own share of the set alone, so it goes by what it has met: an estimate with several processes,
    exact with one.

    Args:
        skipped: where it is listed.
        utterances: how many the loader's set has.
        left_out_before: how many more it would have, but for audio that wasn't even planned with.
        processes: how many share the set.
        where: names the set.
    """

    def __init__(
        self, skipped: SkippedAudio, *, utterances: int, left_out_before: float, processes: int, where: str
    ) -> None:
        self._skipped = skipped
        self._utterances, self._left_out_before = utterances, left_out_before
        self._least_met = utterances / processes
        self._where = where
        self._met: set[int] = set()
        self._bad: set[int] = set()

    def add(self, indices: Sequence[int], bad: Sequence[BadAudio]) -> None:
        """Count a batch.

        Raises:
            UserError: too much of the set is bad.
        """
        self._skipped.add(bad)
        self._bad |= {one.index for one in bad}
        self._met |= {*indices, *self._bad}
        in_set = len(self._bad) * self._utterances / max(len(self._met), self._least_met)
        left_out = in_set + self._left_out_before
        if self._bad:
            self._skipped.refuse_too_many(left_out, self._utterances + self._left_out_before, self._where)


def too_many(share: float, max_share: float, where: object) -> UserError:
    """Say that more is bad than may be skipped."""
    return UserError(
        f"{share:.1%} of the audio can't be used, more than the {max_share:.1%} that may be skipped",
        where=where,
        remedy="`ser check CORPUS` lists every such file; mend them, or raise data.max_bad_share",
    )
