"""The loader, by which a resumed fit finds its place: it saves and restores the position inside an epoch.

What else makes resumed training exact is in training/checkpoints.py (`ExactResumption`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

import torch
from torch.utils.data import DataLoader

from ser_personal.errors import UserError
from ser_personal.types import SpeakerBatch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ser_personal.data.batching import GivenBatches
    from ser_personal.data.dataset import Example, UtteranceDataset

Batch = TypeVar("Batch", bound=SpeakerBatch)


class SpeechLoader(Generic[Batch]):
    """Iterates over the batches of this rank; `persistent` keeps the workers from epoch to epoch.

    Not a DataLoader, so that Lightning never rebuilds it around a sampler of its own. Lightning sets the epoch through
    `batch_sampler`, and saves and restores the position inside an epoch through `state_dict`.

    Raises:
        UserError: while iterating, what a dataset raised in any process.
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
        self._resume_at = state["position"] % len(self)
