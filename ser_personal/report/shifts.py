"""Do speakers who lie far from the training set fare worse? Correlations of shift and CCC, with intervals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ser_personal.calibration.shift import ShiftTable

if TYPE_CHECKING:
    from ser_personal.report.bootstrap import Bootstrap, Estimate
    from ser_personal.report.run_folder import ScoredSet

NAMES = {
    "feature_shift_and_ccc": "feature shift and CCC",
    "label_shift_and_ccc": "label shift and CCC",
    "feature_shift_and_label_shift": "feature shift and label shift",
}


@dataclass(frozen=True)
class ShiftAnalysis:
    """Of one attribute.

    Attributes:
        speakers: that the correlations are over.
        correlations: name -> Pearson correlation.
    """

    speakers: int
    correlations: dict[str, Estimate]


def shift_table(test: ScoredSet, attribute: str) -> ShiftTable:
    """Shifts of a set's speakers, and the CCC of their raw predictions."""
    shifts = {name: speaker.shift for name, speaker in test.speakers.items()}
    return ShiftTable.join(shifts, test.row("raw").scores[attribute].per_speaker, attribute)


def analyse_shifts(test: ScoredSet, attribute: str, bootstrap: Bootstrap) -> ShiftAnalysis:
    """Correlate shifts and CCC over the speakers, who are drawn anew for the intervals."""
    table = shift_table(test, attribute)
    number = len(table.speakers)
    drawn = table.correlations(bootstrap.weights([None] * number)) if number else {}
    found = {
        name: bootstrap.estimate(float(value[0]), drawn.get(name, value), number)
        for name, value in table.correlations().items()
    }
    return ShiftAnalysis(number, found)
