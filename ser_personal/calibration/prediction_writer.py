"""predictions.csv of `ser predict`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch import Callback
from lightning.pytorch.utilities import rank_zero_info

from ser_personal.calibration.collect import CollectedSet, Collector
from ser_personal.calibration.results import emotion_frame, predictions_frame

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from lightning.pytorch import LightningModule, Trainer

    from ser_personal.types import Utterance


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
        folder = Path(trainer.log_dir or trainer.default_root_dir)
        collected = self._predicted.join(trainer, data.utterances)
        if collected is None:
            return
        folder.mkdir(parents=True, exist_ok=True)
        self.frame(collected, pl_module, data.utterances).to_csv(folder / "predictions.csv", index=False)
        rank_zero_info(f"written: {folder / 'predictions.csv'}")

    def frame(
        self, collected: CollectedSet, pl_module: LightningModule, utterances: Sequence[Utterance]
    ) -> pd.DataFrame:
        """Make the table of what a model of emotion attributes predicts."""
        attributes: Any = pl_module.attributes
        return predictions_frame(collected, None, attributes, utterances)


class EmotionPredictionWriter(PredictionWriter):
    """Writes the probability of each emotion instead."""

    def frame(
        self, collected: CollectedSet, pl_module: LightningModule, utterances: Sequence[Utterance]
    ) -> pd.DataFrame:
        """Make the table of what a model of categorical emotion predicts."""
        emotions: Any = pl_module.emotions
        return emotion_frame(collected, emotions, utterances)
