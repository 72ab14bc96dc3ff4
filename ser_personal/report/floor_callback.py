"""The ridge floor in `ser test`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from lightning.pytorch import Callback
from lightning.pytorch.utilities import rank_zero_info

from ser_personal.calibration.results import rows_as_json, show, write_json
from ser_personal.calibration.table import CalibrationRow
from ser_personal.finetune.scores import score
from ser_personal.report.floor import mfcc_functionals, ridge_floor

if TYPE_CHECKING:
    from collections.abc import Collection

    from lightning.pytorch import LightningModule, Trainer


class RidgeFloorCallback(Callback):
    """Prints what a ridge regression on MFCC functionals reaches on the same test sets, and writes floor.json.

    It is fitted on the training split, by the first process alone.
    """

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Fit, score and print the floor."""
        # Every process has to ask for the folder, or the first one waits for the others' answer for ever.
        folder = Path(trainer.log_dir or trainer.default_root_dir)
        if not trainer.is_global_zero:
            return
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        train = data.train_indices
        attributes = [name for name in pl_module.attributes if name in data.train_label_mean]  # type: ignore[union-attr]
        if not attributes:
            rank_zero_info("no ridge floor: no training utterance has a label that the model predicts")
            return
        tests = {split: data.split_indices(split) for split in data.wanted_test_splits}
        wanted = {index for indices in (train, *tests.values()) for index in indices}
        examples = ((index, data.example(index)) for index in wanted)
        features = {index: mfcc_functionals(example.waveform) for index, example in examples if example is not None}
        train, tests = _known(train, features), {split: _known(tests[split], features) for split in tests}
        labels = np.array([[u.labels.get(attribute, np.nan) for attribute in attributes] for u in data.utterances])
        of_training = np.stack([features[index] for index in train])
        metric: Any = pl_module.test_metric
        splits = {}
        for split, indices in tests.items():
            predictions = ridge_floor(of_training, labels[train], np.stack([features[index] for index in indices]))
            speakers = [data.utterances[index].speaker_id for index in indices]
            scores = score(predictions, labels[indices], speakers, attributes, min_utterances=metric.min_utterances)
            row = CalibrationRow("ridge", scores, predictions[None])
            show(f"{split}: ridge regression on MFCC functionals, the floor", [row])
            splits[split] = {"rows": rows_as_json([row])}
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "floor.json", {"splits": splits})


def _known(indices: list[int], features: Collection[int]) -> list[int]:
    """Leave out what has no features: audio that is bad, and skipped."""
    return [index for index in indices if index in features]
