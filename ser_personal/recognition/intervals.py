"""Intervals of a bundle, measured on the validation speakers as the recogniser will meet new ones."""

from __future__ import annotations

from math import isinf
from typing import TYPE_CHECKING

import numpy as np

from ser_personal.calibration.conformal import ConformalTable, speakers_needed
from ser_personal.finetune.scores import rows_by_speaker

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ser_personal.calibration.table import PredictedSet


def measure_intervals(
    heard: PredictedSet, calibrated: NDArray[np.float64] | None, attributes: tuple[str, ...], coverage: float
) -> ConformalTable:
    """Fit the table to the errors of a validation set.

    Args:
        heard: the set, raw, all of its speakers known.
        calibrated: (utterances, attributes), each utterance by what its speaker has said so far; None where a bundle
            calibrates nobody.
        attributes: names of the columns.
        coverage: of the intervals.
    """
    sets, behind = [heard.predictions], [np.zeros(len(heard.predictions), dtype=np.int64)]
    if calibrated is not None:
        sets.append(calibrated)
        behind.append(_said_so_far(heard))
    return ConformalTable.fit(
        np.concatenate(sets),
        np.concatenate([heard.labels] * len(sets)),
        heard.speaker_ids * len(sets),
        attributes,
        utterances=np.concatenate(behind),
        coverage=coverage,
    )


def describe_intervals(table: ConformalTable, speakers: int) -> str:
    """One line on what was measured, and what too few speakers come to."""
    measured = f"intervals of {table.coverage:.0%} measured on {speakers} validation speakers"
    if any(isinf(width) for widths in table.attributes.values() for width in widths.half_width):
        needed = speakers_needed(table.coverage)
        return f"{measured}; fewer than {needed} tell no width, so some are the whole label scale (--coverage)"
    return measured


def _said_so_far(heard: PredictedSet) -> NDArray[np.int64]:
    """How many utterances each one's speaker has said by then, (utterances,)."""
    said = np.empty(len(heard.speaker_ids), dtype=np.int64)
    for rows in rows_by_speaker(heard.speaker_ids).values():
        said[rows] = np.arange(1, len(rows) + 1)
    return said
