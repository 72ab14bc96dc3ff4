"""Which utterances share a batch, and the loader, by which a resumed fit finds its place inside an epoch.

What else makes resumed training exact is in training/checkpoints.py (`ExactResumption`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from math import ceil
from typing import Generic, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Sampler
from typing_extensions import override

from ser_personal.audio import SAMPLE_RATE
from ser_personal.data.dataset import Example, UtteranceDataset
from ser_personal.errors import UserError
from ser_personal.types import SpeakerBatch

# Lengths are jittered by up to this share before sorting: an utterance meets others of its length in each epoch.
JITTER = 0.03


@dataclass(frozen=True)
class ExampleKey:
    """A position in the datamodule's `utterances`, and the epoch, which worker processes can't learn by `set_epoch`."""

    index: int
    epoch: int | None = None


class GivenBatches(Sampler[list[ExampleKey]]):
    """Fixed batches of positions in `utterances`, the same in every epoch."""

    # where the next iteration begins
    first_batch = 0
    rank, world_size = 0, 1
    # None where nothing is drawn anew in each
    _epoch: int | None = None

    def __init__(self, batches: Sequence[list[int]]) -> None:
        self._batches = batches

    @property
    def sampler(self) -> Self:
        """Itself: Lightning calls `set_epoch` on `batch_sampler.sampler` only."""
        return self

    def plan(self, epoch: int) -> list[list[int]]:
        """List the batches of all ranks in an epoch, as positions in `utterances`."""
        return list(self._batches)

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[list[ExampleKey]]:
        epoch = self._epoch
        dealt = islice(cycle(self.plan(epoch or 0)), self.rank, len(self) * self.world_size, self.world_size)
        return ([ExampleKey(index, epoch) for index in batch] for batch in islice(dealt, self.first_batch, None))


class BucketBatchSampler(GivenBatches):
    """Batches of similar lengths, each within a budget of padded audio, dealt to the ranks in turn.

    The plan of an epoch is a pure function of the seed and the epoch, whatever the number of ranks. Every rank gets
    equally many batches, as many in every epoch; where they don't divide evenly among the ranks, the first ones are
    repeated (in evaluation, drop repeats by index). Batches of one, which batch normalisation can't train on, occur
    only where the budget allows no other way. Evaluation goes from the longest utterance to the shortest.

    `indices` are positions in the datamodule's `utterances`, `num_samples` (in the same order) the samples that a batch
    holds of each, and `batch_seconds` counts padding.
    """

    def __init__(
        self,
        indices: Sequence[int],
        num_samples: Sequence[int],
        *,
        batch_seconds: float,
        max_batch: int | None = None,
        shuffle: bool,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self._indices = np.asarray(indices, dtype=np.int64)
        self._num_samples = np.asarray(num_samples, dtype=np.int64)
        self._shuffle, self._seed = shuffle, seed
        self.rank, self.world_size = rank, world_size
        self.set_epoch(0)
        longest = self._num_samples.max(initial=0)
        if longest > batch_seconds * SAMPLE_RATE:
            what = f"the longest utterance, {longest / SAMPLE_RATE:.2f} s, doesn't fit a batch of {batch_seconds:g} s"
            raise UserError(what, where="batch_seconds", remedy="Raise data.batch_seconds to at least that")
        in_order = np.sort(self._num_samples)[::-1]
        # Jitter makes the utterance at a sorted position longer by this at most, so one list of sizes fits all epochs.
        at_most = np.minimum(in_order * (1 + JITTER) / (1 - JITTER), longest) if shuffle else in_order
        self._sizes = batch_sizes(at_most, int(batch_seconds * SAMPLE_RATE), max_batch)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next iteration."""
        self._epoch = epoch if self._shuffle else None

    @override
    def plan(self, epoch: int) -> list[list[int]]:
        keys = self._num_samples.astype(np.float64)
        rng = np.random.default_rng((self._seed, epoch))
        if self._shuffle:
            keys *= 1 + rng.uniform(-JITTER, JITTER, len(keys))
        order = self._indices[np.argsort(-keys, kind="stable")]
        batches = [batch.tolist() for batch in np.split(order, np.cumsum(self._sizes)[:-1])] if self._sizes else []
        return [batches[i] for i in rng.permutation(len(batches))] if self._shuffle else batches

    def __len__(self) -> int:
        return ceil(len(self._sizes) / self.world_size)


def batch_sizes(num_samples: NDArray[np.number], budget: int, max_batch: int | None = None) -> list[int]:
    """Cut lengths, longest first, into batches within a budget of padded samples, the last two evened out."""
    sizes: list[int] = []
    start = 0
    while start < len(num_samples):
        size = min(int(budget // num_samples[start]), len(num_samples) - start, max_batch or len(num_samples))
        sizes.append(size)
        start += size
    if len(sizes) > 1:
        moved = max(0, sizes[-2] - sizes[-1]) // 2
        sizes[-2:] = [sizes[-2] - moved, sizes[-1] + moved]
    return sizes


Batch = TypeVar("Batch", bound=SpeakerBatch)


class SpeechLoader(Generic[Batch]):
    """Iterates over the batches of this rank; `persistent` keeps the workers from epoch to epoch.

    Not a DataLoader, so that Lightning never rebuilds it around a sampler of its own. Lightning sets the epoch through
    `batch_sampler`, and saves and restores the position inside an epoch through `state_dict`.
    """

    def __init__(
        self,
        dataset: UtteranceDataset,
        batch_sampler: GivenBatches,
        collate: Callable[[Sequence[Example] | UserError], Batch | UserError],
        *,
        num_workers: int = 0,
        persistent: bool = False,
    ) -> None:
        self.batch_sampler = batch_sampler
        self._position = 0
        self._resume_at = 0
        self._loader: DataLoader[Batch | UserError] = DataLoader(
            dataset,  # type: ignore[arg-type]  # torch types a loader by its examples, this one by its batches
            batch_sampler=batch_sampler,
            collate_fn=collate,
            num_workers=num_workers,
            persistent_workers=persistent and num_workers > 0,
            pin_memory=torch.cuda.is_available(),
        )

    def __len__(self) -> int:
        return len(self.batch_sampler)

    def __iter__(self) -> Iterator[Batch]:
        # A generator: the plan is made at the first batch, after Lightning has set the epoch.
        self._position = self.batch_sampler.first_batch = self._resume_at
        self._resume_at = 0
        for fetched in self._loader:
            if isinstance(fetched, UserError):
                raise fetched
            self._position += 1
            yield fetched

    @property
    def _iterator(self) -> object:
        """A DataLoader's attribute by which Lightning ends the workers; the garbage collector hangs 5 s on each."""
        return self._loader._iterator  # noqa: SLF001

    @_iterator.setter
    def _iterator(self, iterator: None) -> None:
        self._loader._iterator = iterator  # noqa: SLF001

    def state_dict(self) -> dict[str, int]:
        """Count the batches of the epoch that were loaded, for the checkpoint."""
        return {"position": self._position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Start the next iteration where training was interrupted; after a whole epoch, at the start of the next."""
        # a checkpoint may be saved again before the first batch, as by a fit that stops at once
        self._position = self._resume_at = state["position"] if state["position"] < len(self) else 0
