"""How often intervals measured on validation speakers hold the labels of test speakers."""

from __future__ import annotations

from math import isinf
from typing import TYPE_CHECKING, Any

import numpy as np

from ser_personal.calibration.conformal import ConformalTable, speakers_needed
from ser_personal.finetune.scores import rows_by_speaker

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ser_personal.calibration.table import PredictedSet

COVERAGE = 0.9
QUANTILES = (0.0, 0.1, 0.5, 0.9, 1.0)


def intervals_as_json(
    validation: PredictedSet, test: PredictedSet, attributes: tuple[str, ...], scale: tuple[float, float]
) -> dict[str, Any]:
    """Fit intervals to the errors of one set, and count how often they hold the labels of another.

    Args:
        validation: of speakers who are neither in the test set nor in the bank, calibrated.
        test: calibrated in the same way.
        attributes: names of the columns.
        scale: least and greatest label.

    Returns:
        What was asked for and how many speakers it takes and had; attribute -> half-width (null where speakers were too
        few), mean width within the scale, and of the test speakers' own shares the mean and the quantiles, null where
        nobody has a label.
    """
    table = ConformalTable.fit(
        validation.predictions, validation.labels, validation.speaker_ids, attributes, coverage=COVERAGE
    )
    return {
        "coverage": COVERAGE,
        "speakers_needed": speakers_needed(COVERAGE),
        "validation_speakers": len(set(validation.speaker_ids) - {None}),
        "quantiles": list(QUANTILES),
        "attributes": {
            attribute: _covered(
                test.predictions[:, column],
                test.labels[:, column],
                rows_by_speaker(test.speaker_ids),
                table.half_width(attribute, 0),
                scale,
            )
            for column, attribute in enumerate(attributes)
        },
    }


def _covered(
    predictions: NDArray[np.float64],
    labels: NDArray[np.float64],
    rows_of: dict[str, NDArray[np.int64]],
    half_width: float,
    scale: tuple[float, float],
) -> dict[str, Any]:
    low, high = (predictions - half_width).clip(*scale), (predictions + half_width).clip(*scale)
    inside = np.abs(predictions - labels) <= half_width
    labelled = [rows[~np.isnan(labels[rows])] for rows in rows_of.values()]
    shares = np.array([inside[rows].mean() for rows in labelled if len(rows)])
    return {
        "half_width": None if isinf(half_width) else half_width,
        "mean_width": float((high - low).mean()) if len(predictions) else None,
        "mean": float(shares.mean()) if len(shares) else None,
        "of_speakers": np.quantile(shares, QUANTILES).tolist() if len(shares) else None,
    }
