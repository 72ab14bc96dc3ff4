"""Calibrated utterances -> rows of the table that people get, one an utterance, with an interval around each value."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, nan
from typing import TYPE_CHECKING, NamedTuple

from ser_personal.audio import SAMPLE_RATE

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ser_personal.calibration.conformal import ConformalTable
    from ser_personal.recognition.utterances import Utterances

Row = dict[str, str | float | int | None]


class CalibratedUtterances(NamedTuple):
    """Calibrated predictions of one recording.

    Attributes:
        predictions: (utterances, attributes), label points.
        behind: (utterances,), how many of the speaker's utterances are behind each calibration, 0 for none.
    """

    predictions: NDArray[np.float64]
    behind: list[int]


@dataclass(frozen=True)
class RowFormat:
    """How a model's predictions are written down.

    Attributes:
        attributes: what it predicts, in the order of its outputs.
        scale: least and greatest label, None where nobody said.
        conformal: half-widths of intervals; None where they weren't measured.
    """

    attributes: tuple[str, ...]
    scale: tuple[float, float] | None
    conformal: ConformalTable | None

    @property
    def columns(self) -> list[str]:
        """Columns of a row, in their order."""
        of_attribute = ("raw", "calibrated", "low", "high")
        values = [f"{attribute}_{name}" for attribute in self.attributes for name in of_attribute]
        return ["source", "start", "end", "speaker", *values, "calibration_utterances"]

    def rows(self, utterances: Utterances, calibrated: CalibratedUtterances, *, measured: bool) -> list[Row]:
        """Rows of a recording.

        Args:
            utterances: of one recording.
            calibrated: what a calibrator made of them.
            measured: whether the intervals hold around this calibrator's values; there are none otherwise.
        """
        rows: list[Row] = []
        for segment, raw, values, behind in zip(
            utterances.segments, utterances.predictions, calibrated.predictions, calibrated.behind, strict=True
        ):
            row: Row = {
                "source": utterances.recording.source,
                "start": segment.start / SAMPLE_RATE,
                "end": segment.end / SAMPLE_RATE,
                "speaker": utterances.recording.speaker_id,
            }
            for column, attribute in enumerate(self.attributes):
                value = float(values[column])
                row[f"{attribute}_raw"] = float(raw[column])
                row[f"{attribute}_calibrated"] = value
                row[f"{attribute}_low"], row[f"{attribute}_high"] = (
                    self._interval(attribute, value, behind) if measured or not behind else (nan, nan)
                )
            row["calibration_utterances"] = behind
            rows.append(row)
        return rows

    def _interval(self, attribute: str, value: float, behind: int) -> tuple[float, float]:
        if self.conformal is None:
            return nan, nan
        width = self.conformal.half_width(attribute, behind)
        low, high = self.scale or (-inf, inf)
        return min(max(value - width, low), high), max(min(value + width, high), low)
