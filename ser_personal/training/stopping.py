"""Where a fit may be stopped, and what stops it there."""

from __future__ import annotations

import signal
from math import inf
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lightning.pytorch import Trainer


class Interrupted(SystemExit):
    """A fit was told to stop, and did so between two steps.

    Args:
        signum: by which signal.
    """

    def __init__(self, signum: int) -> None:
        self.signal = signal.Signals(signum)
        super().__init__(128 + signum)


def resumes_exactly(trainer: Trainer) -> bool:
    """Say whether a fit resumed from a checkpoint of this batch's end does what the fit itself will do.

    Not while gradients accumulate, which checkpoints don't hold, and not before a validation, which Lightning leaves
    out on resuming; after that one there is a checkpoint anyway. Where validation goes by the clock, nobody knows.
    """
    progress = trainer.fit_loop.epoch_loop.batch_progress
    batches = progress.total.ready if trainer.check_val_every_n_epoch is None else progress.current.ready
    every = trainer.val_check_batch
    if every is None or trainer.is_last_batch or progress.current.ready % trainer.accumulate_grad_batches:
        return False
    return every == inf or batches % every != 0
