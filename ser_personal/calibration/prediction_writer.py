"""predictions.csv of `ser predict`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch import Callback
from lightning.pytorch.utilities import rank_zero_info

from ser_personal.calibration.collect import Collector
from ser_personal.calibration.results import predictions_frame

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer


class PredictionWriter(Callback):
    """Writes predictions.csv to the run's folder: each utterance once, its label, if any, beside its prediction."""

    def __init__(self) -> None:
        super().__init__()
        self._predicted = Collector()

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep a batch's predictions."""
        self._predicted.add(outputs)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write those of all devices."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        attributes: Any = pl_module.attributes
        folder = Path(trainer.log_dir or trainer.default_root_dir)
        collected = self._predicted.join(trainer, data.utterances)
        if collected is None:
            return
        folder.mkdir(parents=True, exist_ok=True)
        predictions_frame(collected, None, attributes, data.utterances).to_csv(folder / "predictions.csv", index=False)
        rank_zero_info(f"written: {folder / 'predictions.csv'}")
