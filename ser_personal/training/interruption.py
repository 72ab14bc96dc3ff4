"""Ctrl-C, SIGTERM and SLURM's warning: a fit ends between two steps, and what it leaves can be gone on with."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from typing import TYPE_CHECKING

import torch
from lightning.pytorch.callbacks import Callback

from ser_personal.training.stage_checkpoint import StageCheckpoint
from ser_personal.training.stopping import Interrupted, resumes_exactly

if TYPE_CHECKING:
    from types import FrameType
    from typing import Any

    from lightning.pytorch import LightningModule, Trainer

SLURM_JOB = "SLURM_JOB_ID"
NOTICE = b"\nser: stopping after this step, or after the validation that runs; a second signal stops at once\n"


class Interruption(Callback):
    """Ends a fit between two steps, the same two on every device, when any of its processes was told to stop.

    Lightning's own handlers save inside a step, or talk to the other devices from inside the handler, which may hang.
    SIGUSR1 counts under SLURM alone, whose `--signal=USR1@120` sends it before the time is up. Ours.
    """

    def __init__(self) -> None:
        self._received = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the signals over from Lightning, which gives them back to whom they belonged when the fit ends."""
        self._received = 0
        # only there does Python let anyone listen
        if threading.current_thread() is not threading.main_thread():
            return
        signals = [signal.SIGINT, signal.SIGTERM]
        for signum in [*signals, signal.SIGUSR1] if SLURM_JOB in os.environ else signals:
            signal.signal(signum, self._note)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if self._received:
            raise KeyboardInterrupt
        self._received = signum
        # Python's own files can't be written to from a handler that interrupts a write
        os.write(2, NOTICE)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop where a checkpoint can be made.

        Raises:
            Interrupted: on every device, once any has received a signal.
        """
        if resumes_exactly(trainer):
            self._stop_if_asked(trainer)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop where a checkpoint has just been made.

        Raises:
            Interrupted: on every device, once any has received a signal.
        """
        if all(kept.holds(trainer) for kept in trainer.checkpoint_callbacks if isinstance(kept, StageCheckpoint)):
            self._stop_if_asked(trainer)

    def _stop_if_asked(self, trainer: Trainer) -> None:
        signum = self._received
        if trainer.world_size > 1:
            here = torch.tensor(signum, device=trainer.strategy.root_device)
            signum = int(trainer.strategy.reduce(here, reduce_op="max"))
        if signum:
            raise Interrupted(signum)


def requeue() -> None:
    """Have SLURM run this job again."""
    task = os.environ.get("SLURM_ARRAY_TASK_ID")
    job = os.environ[SLURM_JOB] if task is None else f"{os.environ['SLURM_ARRAY_JOB_ID']}_{task}"
    subprocess.run(["scontrol", "requeue", job], check=True)  # noqa: S603, S607
