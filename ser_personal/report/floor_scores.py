"""The floor of a corpus: the ridge regression fitted on its training set and scored on its test sets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ser_personal.acoustics import mfcc_functionals
from ser_personal.calibration.table import CalibrationRow
from ser_personal.data.batching import ExampleKey
from ser_personal.finetune.scores import score
from ser_personal.report.floor import ridge_floor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

RIDGE, TITLE = "ridge", "ridge regression on MFCC functionals, the floor"


@dataclass(frozen=True, eq=False)
class FloorSet:
    """The floor on one test set.

    Attributes:
        row: its scores.
        labels: (utterances, attributes), NaN where missing.
        speaker_ids: (utterances,), None where unknown.
    """

    row: CalibrationRow
    labels: NDArray[np.float64]
    speaker_ids: tuple[str | None, ...]


def score_floor(data: Any, wanted: Sequence[str], min_utterances: int) -> dict[str, FloorSet]:
    """Fit and score the floor: test set -> scores; nothing where no training utterance has a wanted label.

    Args:
        data: the datamodule of the corpus.
        wanted: attributes.
        min_utterances: labelled utterances a speaker must have to count in A-CCC.
    """
    train = data.train_indices
    attributes = [name for name in wanted if name in data.train_label_mean]
    if not attributes:
        return {}
    tests = {split: data.split_indices(split) for split in data.wanted_test_splits}
    used = {index for indices in (train, *tests.values()) for index in indices}
    features = {index: mfcc_functionals(data.dataset[ExampleKey(index, 0)].waveform) for index in used}
    labels = np.array([[u.labels.get(attribute, np.nan) for attribute in attributes] for u in data.utterances])
    of_training = np.stack([features[index] for index in train])
    floor = {}
    for split, indices in tests.items():
        predictions = ridge_floor(of_training, labels[train], np.stack([features[index] for index in indices]))
        speakers = tuple(data.utterances[index].speaker_id for index in indices)
        scores = score(predictions, labels[indices], speakers, attributes, min_utterances=min_utterances)
        floor[split] = FloorSet(CalibrationRow(RIDGE, scores, predictions[None]), labels[indices], speakers)
    return floor
