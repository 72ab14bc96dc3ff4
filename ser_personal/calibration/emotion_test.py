"""predictions.csv and metrics.json of a test of categorical emotion."""

from __future__ import annotations

from collections import Counter
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from lightning.pytorch import Callback
from lightning.pytorch.utilities import rank_zero_info

from ser_personal.calibration.collect import Collector
from ser_personal.calibration.conditions import condition, count_conditions
from ser_personal.calibration.results import emotion_frame, write_json
from ser_personal.finetune.classification_metric import NO_EMOTION, classification_scores, emotions_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lightning.pytorch import LightningModule, Trainer

    from ser_personal.calibration.table import PredictedSet
    from ser_personal.types import Utterance


class EmotionTestWriter(Callback):
    """Writes what a test of categorical emotion found, each utterance once, to the run's folder."""

    def __init__(self) -> None:
        super().__init__()
        self._test = Collector()

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep a batch's predictions."""
        self._test.add(outputs)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Score each test set, and apart in it the speakers of each condition."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        folder = Path(trainer.log_dir or trainer.default_root_dir)
        collected = self._test.join(trainer, data.utterances)
        if collected is None:
            return
        emotions: Any = pl_module.emotions
        heard: Any = pl_module.personalized.heard  # type: ignore[union-attr]
        labelled = set(data.train_speaker_ids)
        utterances = [data.utterances[index] for index in collected.indices]
        split_of = np.array([utterance.split for utterance in utterances])
        condition_of = [condition(each, labelled, heard.speaker_ids, heard.splits) for each in utterances]
        splits = {}
        for split in sorted(set(split_of.tolist())):
            rows = np.flatnonzero(split_of == split)
            record = _score_split(
                collected.predicted.part(split_of == split),
                [utterances[row] for row in rows],
                [condition_of[row] for row in rows],
            )
            splits[split] = {**record, "left_out": data.left_out(split, len(rows))}
        folder.mkdir(parents=True, exist_ok=True)
        emotion_frame(collected, emotions, data.utterances).to_csv(folder / "predictions.csv", index=False)
        checkpoint = str(trainer.ckpt_path) if trainer.ckpt_path else None
        write_json(folder / "metrics.json", {"checkpoint": checkpoint, "emotions": list(emotions), "splits": splits})
        rank_zero_info(f"written: {folder / 'predictions.csv'} and {folder / 'metrics.json'}")


def _score_split(test: PredictedSet, utterances: Sequence[Utterance], condition_of: Sequence[Any]) -> dict[str, Any]:
    speakers = count_conditions(utterances, condition_of)
    record: dict[str, Any] = {**_scores(test), "speakers": speakers, "conditions": {}}
    # a speaker that training knew and one that it didn't are different tasks
    for name in sorted(Counter(condition_of)) if len(speakers) > 1 else ():
        record["conditions"][name] = _scores(test.part(np.array([its == name for its in condition_of])))
    return record


def _scores(test: PredictedSet) -> dict[str, Any]:
    labelled = emotions_of(test.labels)
    scores = classification_scores(test.predictions.argmax(1), labelled)
    return {
        "utterances": len(labelled),
        "labelled": int((labelled != NO_EMOTION).sum()),
        "scores": {name: None if isnan(score) else score for name, score in scores.items()},
    }
