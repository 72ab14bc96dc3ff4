"""The file that a stage leaves for the next one, papt.ckpt or finetune.ckpt, and its validation scores beside it."""

from __future__ import annotations

import json
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from lightning.pytorch.callbacks import ModelCheckpoint

from ser_personal.files import write_whole

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer
    from torch import Tensor


SCORES = ".scores.json"


class StageCheckpoint(ModelCheckpoint):
    """Keeps the best model as NAME.ckpt and the newest as NAME-last.ckpt, in `--trainer.default_root_dir`.

    NAME.scores.json holds what the best model's validation logged: val_loss, val_ccc, ...; null where it isn't finite.

    Args:
        name: of the stage.
        monitor: what "best" goes by.
        mode: whether less or more of it is better.
    """

    def __init__(self, name: str, monitor: str, mode: Literal["min", "max"]) -> None:
        super().__init__(
            filename=name,
            monitor=monitor,
            mode=mode,
            save_last=True,
            enable_version_counter=False,
            auto_insert_metric_name=False,
        )
        self.CHECKPOINT_NAME_LAST = f"{name}-last"

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Choose the folder."""
        self.dirpath = str(Path(trainer.default_root_dir).absolute())
        super().setup(trainer, pl_module, stage)

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
