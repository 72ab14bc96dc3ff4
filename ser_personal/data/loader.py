"""The loader of one set: workers, mistakes that arrive as themselves, and where in the epoch it stands."""

from __future__ import annotations

import json
import logging
from bisect import bisect_left
from dataclasses import asdict, dataclass, replace
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, Generic, Literal, NamedTuple, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from ser_personal.data.dataset import Fault, UtteranceExample
from ser_personal.errors import UserError
from ser_personal.files import atomic_write
from ser_personal.types import SpeakerBatch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from ser_personal.data.batching import BatchSampler, ExampleKey
    from ser_personal.data.dataset import UtteranceDataset
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
            atomic_write(self._file, f"{json.dumps(content, indent=2)}\n".encode())


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


Example = TypeVar("Example", bound=UtteranceExample)

# a smaller batch has neither a CCC nor batch statistics
LEAST_LEFT = 2


class Remainder(NamedTuple, Generic[Example]):
    """What is left of a planned batch.

    Attributes:
        examples: those with good audio, and what stands in for the others where too few are left.
        bad: what was left out.
    """

    examples: list[Example]
    bad: list[BadAudio]


class LenientDataset(Dataset[Example], Generic[Example]):
    """Batches without the utterances whose audio can't be decoded.

    A batch goes on with what is left of it. Where that is less than two utterances (none, of a batch of one), the
    utterances of the set that are nearest in length stand in, so that a batch is never empty, each process keeps its
    number of batches, and no process waits for another. What stands in is known by its index: scores count it once.

    Args:
        dataset: where examples come from.
        indices: the utterances of the set.
        num_samples: of each of them, in the same order.
        max_share: of bad audio; a batch doesn't look further for what could stand in.
        fills_up: false where processes needn't have equally many batches and nothing may count twice: nothing stands
            in, and of a batch of bad audio nothing is left.
    """

    def __init__(
        self,
        dataset: UtteranceDataset[Example],
        indices: Sequence[int],
        num_samples: Sequence[int],
        max_share: float,
        *,
        fills_up: bool = True,
    ) -> None:
        self.dataset, self.max_share, self.fills_up = dataset, max_share, fills_up
        ordered = sorted(zip(num_samples, indices, strict=True))
        self._lengths = [length for length, _ in ordered]
        self._indices = [index for _, index in ordered]
        self._length_of = dict(zip(indices, num_samples, strict=True))

    def __getitems__(self, keys: Sequence[ExampleKey]) -> Remainder[Example] | Fault:
        """Fetch what can be fetched of a batch."""
        remainder: Remainder[Example] = Remainder([], [])
        for key in keys:
            self._fetch(key, remainder, stands_in=False)
        if not self.fills_up:
            return remainder
        least = min(LEAST_LEFT, len(keys))
        planned = {key.index for key in keys}
        for index in self._nearest(keys[0].index) if len(remainder.examples) < least else ():
            if len(remainder.bad) > self.max_share * len(self._indices) or len(remainder.examples) >= least:
                break
            if index not in planned:
                self._fetch(replace(keys[0], index=index), remainder, stands_in=True)
        if not remainder.examples:
            share = len(remainder.bad) / len(self._indices)
            error = too_many(share, self.max_share, remainder.bad[0].path)
            return Fault(error.what, error.where, error.remedy)
        return remainder

    def _fetch(self, key: ExampleKey, remainder: Remainder[Example], *, stands_in: bool) -> None:
        try:
            remainder.examples.append(self.dataset.stand_in(key) if stands_in else self.dataset[key])
        except UserError as error:
            utterance = self.dataset.utterances[key.index]
            remainder.bad.append(BadAudio.of(key.index, utterance, error.what))

    def _nearest(self, index: int) -> Iterator[int]:
        """Go through the set, from the utterances of about this one's length to those of other lengths."""
        length = self._length_of[index]
        above = bisect_left(self._lengths, length)
        below = above - 1
        while below >= 0 or above < len(self._indices):
            down = length - self._lengths[below] if below >= 0 else float("inf")
            up = self._lengths[above] - length if above < len(self._indices) else float("inf")
            if up <= down:
                yield self._indices[above]
                above += 1
            else:
                yield self._indices[below]
                below -= 1


Batch = TypeVar("Batch", bound=SpeakerBatch)


class _Partial(NamedTuple, Generic[Batch]):
    """A batch on its way out of a loader's worker, None where nothing is left of it, and what was left out."""

    batch: Batch | None
    bad: list[BadAudio]


class SpeechLoader(Generic[Batch]):
    """Iterates over the batches of this rank.

    No DataLoader itself, so that Lightning never rebuilds it around a sampler of its own. Lightning sets the epoch
    through `batch_sampler`, and saves and restores the position inside an epoch through `state_dict`.

    Args:
        dataset: what batches are made of.
        batch_sampler: which examples share a batch.
        collate: examples -> batch.
        num_workers: processes that decode; 0 decodes in this one.
        persistent: keep them from epoch to epoch.
        tally: counts what a lenient dataset leaves out.

    Raises:
        UserError: while iterating, what a dataset raised in any process, or what the tally does.
    """

    def __init__(
        self,
        dataset: UtteranceDataset[Example] | LenientDataset[Example],
        batch_sampler: BatchSampler,
        collate: Callable[[Sequence[Example]], Batch],
        *,
        num_workers: int = 0,
        persistent: bool = False,
        tally: BadAudioTally | None = None,
    ) -> None:
        self.batch_sampler = batch_sampler
        self._tally = tally
        self._position = 0
        self._resume_at = 0
        self._loader: DataLoader[Batch | _Partial[Batch] | Fault] = DataLoader(
            dataset,  # type: ignore[arg-type]  # torch types a loader by its examples, this one by its batches
            batch_sampler=batch_sampler,
            collate_fn=partial(_collate, collate),
            num_workers=num_workers,
            persistent_workers=persistent and num_workers > 0,
            pin_memory=torch.cuda.is_available(),
        )

    def __len__(self) -> int:
        """Count the batches of this rank in a whole epoch."""
        return len(self.batch_sampler)

    def __iter__(self) -> Iterator[Batch]:
        # A generator: the plan is made at the first batch, after Lightning has set the epoch.
        self._position = self.batch_sampler.first_batch = self._resume_at
        self._resume_at = 0
        for fetched in self._loader:
            if isinstance(fetched, Fault):
                raise UserError(fetched.what, where=fetched.where, remedy=fetched.remedy)
            batch, bad = fetched if isinstance(fetched, _Partial) else (fetched, [])
            if self._tally is not None:
                self._tally.add([] if batch is None else batch["indices"].tolist(), bad)
            self._position += 1
            if batch is not None:
                yield batch

    @property
    def _iterator(self) -> object:
        """A DataLoader's attribute by which Lightning ends the workers; the garbage collector hangs 5 s on each."""
        return self._loader._iterator  # noqa: SLF001

    @_iterator.setter
    def _iterator(self, iterator: None) -> None:
        self._loader._iterator = iterator  # noqa: SLF001

    def state_dict(self) -> dict[str, int]:
        """How many batches of the epoch were given out."""
        return {"position": self._position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Let the next iteration start where a run was interrupted; after a whole epoch, at the start of the next."""
        self._resume_at = state["position"] % len(self)


def _collate(
    collate: Callable[[Sequence[Example]], Batch], fetched: Sequence[Example] | Remainder[Example] | Fault
) -> Batch | _Partial[Batch] | Fault:
    if isinstance(fetched, Fault):
        return fetched
    if isinstance(fetched, Remainder):
        return _Partial(collate(fetched.examples) if fetched.examples else None, fetched.bad)
    return collate(fetched)
