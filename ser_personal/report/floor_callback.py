"""The ridge floor in `ser test`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch import Callback
from lightning.pytorch.utilities import rank_zero_info

from ser_personal.calibration.results import rows_as_json, show, write_json
from ser_personal.errors import UserError
from ser_personal.report.floor_scores import TITLE, score_floor

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer


class RidgeFloorCallback(Callback):
    """Prints what a ridge regression on MFCC functionals reaches on the same test sets, and writes floor.json.

    It is fitted on the training split, by the first process alone.
    """

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse a model without emotion attributes.

        Raises:
            UserError: it predicts something else.
        """
        if not hasattr(pl_module, "attributes"):
            raise UserError(
                f"{type(pl_module).__name__} predicts no emotion attributes",
                where="RidgeFloorCallback",
                remedy="Leave it out, or test a model of them, trained with configs/finetune.yaml",
            )

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Fit, score and print the floor."""
        # Every process has to ask for the folder, or the first one waits for the others' answer for ever.
        folder = Path(trainer.log_dir or trainer.default_root_dir)
        if not trainer.is_global_zero:
            return
        metric: Any = pl_module.test_metric
        attributes: Any = pl_module.attributes
        floor = score_floor(trainer.datamodule, attributes, metric.min_utterances)  # type: ignore[attr-defined]
        if not floor:
            rank_zero_info("no ridge floor: no training utterance has a label that the model predicts")
            return
        for split, reached in floor.items():
            show(f"{split}: {TITLE}", [reached.row])
        folder.mkdir(parents=True, exist_ok=True)
        rows = {split: {"rows": rows_as_json([reached.row])} for split, reached in floor.items()}
        write_json(folder / "floor.json", {"splits": rows})
