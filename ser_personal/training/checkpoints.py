"""The file that a stage leaves for the next one, papt.ckpt or finetune.ckpt, and its validation scores beside it."""

from __future__ import annotations

import json
import os
import signal
from math import inf, isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from ser_personal.errors import require_range
from ser_personal.files import atomic_file, atomic_write

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer
    from torch import Tensor


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


SCORES = ".scores.json"


SCORES = ".scores.json"


class StageCheckpoint(ModelCheckpoint):
    """Keeps the best model as NAME.ckpt and the newest as NAME-last.ckpt, in `--trainer.default_root_dir`.

    NAME.scores.json holds what the best model's validation logged: val_loss, val_ccc, ...; null where it isn't finite.

    Args:
        name: of the stage.
        monitor: what "best" goes by.
        mode: whether less or more of it is better.
        every_n_steps: renew NAME-last.ckpt after so many steps, too; None means at the end of epochs alone.

    Raises:
        UserError: every_n_steps is out of its range.
    """

    def __init__(self, name: str, monitor: str, mode: Literal["min", "max"], every_n_steps: int | None = 1000) -> None:
        if every_n_steps is not None:
            require_range("every_n_steps", every_n_steps, 1)
        super().__init__(
            filename=name,
            monitor=monitor,
            mode=mode,
            save_last=True,
            enable_version_counter=False,
            auto_insert_metric_name=False,
        )
        self.every_n_steps = every_n_steps
        self.CHECKPOINT_NAME_LAST = f"{name}-last"

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Choose the folder."""
        self.dirpath = str(Path(trainer.default_root_dir).absolute())
        super().setup(trainer, pl_module, stage)

    def holds(self, trainer: Trainer) -> bool:
        """Say whether the newest checkpoint is of the step that the fit is at."""
        return self._last_global_step_saved == trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Renew the newest model inside an epoch."""
        due = self.every_n_steps is not None and trainer.global_step % self.every_n_steps == 0
        if due and resumes_exactly(trainer):
            self._save_newest(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Save the newest model where a fit was stopped between two steps; NAME.ckpt stays the best one."""
        if isinstance(exception, Interrupted):
            self._save_newest(trainer)

    def _save_newest(self, trainer: Trainer) -> None:
        if not self._should_skip_saving_checkpoint(trainer):
            self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))

    def _save_checkpoint(self, trainer: Trainer, filepath: str) -> None:
        super()._save_checkpoint(trainer, filepath)
        if trainer.is_global_zero and Path(filepath).stem == self.filename:
            logged = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val_")}
            scores = {name: value if isfinite(value) else None for name, value in logged.items()}
            atomic_write(Path(filepath).with_suffix(SCORES), f"{json.dumps(scores, indent=2)}\n".encode())

    def _save_topk_checkpoint(self, trainer: Trainer, monitor_candidates: dict[str, Tensor]) -> None:
        super()._save_topk_checkpoint(trainer, monitor_candidates)
        # Lightning renews the last checkpoint only where it has just saved a best one.
        self._last_global_step_saved = trainer.global_step


class WholeCheckpoints(TorchCheckpointIO):
    """Writes each checkpoint beside its place, to the disk, and renames it.

    Lightning writes to the system's temporary folder and moves from there: where that is another disk, a kill while it
    copies leaves half a checkpoint in the place of the good one; and a crash of the machine may leave an empty one.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint; what a killed writer left of an earlier one is removed."""
        path = Path(path)
        for left in path.parent.glob(f".{path.name}.*.tmp"):
            left.unlink(missing_ok=True)
        with atomic_file(path) as file:
            torch.save(checkpoint, file)


class ExactResumption(Callback):
    """Puts the loader where it stood, and makes the randomness of a step a function of the step.

    Ours. Every step is seeded by the fit's seed, the epoch, the batch and the rank: dropout, for one, would otherwise
    differ after resuming. Without `--seed_everything` nothing is seeded.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore the loader's place in the epoch.

        Lightning does so when it sets the data up. A schedule that asks for the number of steps has it do that before
        the checkpoint's loops are read, and the epoch would begin again, unnoticed.
        """
        trainer.fit_loop._load_combined_loader_states()  # noqa: SLF001

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int) -> None:
        """Seed."""
        seed = os.environ.get("PL_GLOBAL_SEED")
        if seed is not None:
            step = [int(seed), trainer.current_epoch, batch_idx, trainer.global_rank]
            torch.manual_seed(int(np.random.SeedSequence(step).generate_state(1)[0]))
