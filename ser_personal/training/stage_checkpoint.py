"""The file that a stage leaves for the next one, papt.ckpt or finetune.ckpt, and its validation scores beside it."""

from __future__ import annotations

import json
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lightning.pytorch.callbacks import ModelCheckpoint

from ser_personal.files import write_whole
from ser_personal.ranges import require_range
from ser_personal.training.stopping import Interrupted, resumes_exactly

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer
    from torch import Tensor

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
            write_whole(Path(filepath).with_suffix(SCORES), f"{json.dumps(scores, indent=2)}\n".encode())

    def _save_topk_checkpoint(self, trainer: Trainer, monitor_candidates: dict[str, Tensor]) -> None:
        super()._save_topk_checkpoint(trainer, monitor_candidates)
        # Lightning renews the last checkpoint only where it has just saved a best one.
        self._last_global_step_saved = trainer.global_step
