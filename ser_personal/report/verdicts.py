"""What a test run shows: whether calibration helps, whether by similar voices, whether ridge regression is behind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from ser_personal.evaluation.run_files import RunFiles, ScoredSet
    from ser_personal.report.bootstrap import Bootstrap, Estimate

RIDGE = "ridge"
Mark = Literal["helps", "open", "harms"]
# what the difference of two rows means where its interval lies above 0, holds 0, and lies below
CALIBRATION = ("calibration helps", "no effect of calibration is shown", "calibration harms")
SIMILAR = (
    "similar voices calibrate better than random ones",
    "no gain of similar over random voices is shown",
    "random voices calibrate better than similar ones",
)
MODEL = (
    "the model is better than ridge regression",
    "no difference to ridge regression is shown",
    "ridge regression is better than the model",
)


@dataclass(frozen=True)
class Verdict:
    """What one paired difference in A-CCC shows.

    Attributes:
        row: of the score table.
        than: the row that it is compared with.
        gain: A-CCC of `row` minus that of `than`, over the same speakers.
        meanings: of a gain, of neither, and of a loss.
    """

    row: str
    than: str
    gain: Estimate
    meanings: tuple[str, str, str]

    @property
    def mark(self) -> Mark:
        """Where the interval lies; without one the question stays open."""
        if self.gain.refused is not None or self.gain.low <= 0 <= self.gain.high:
            return "open"
        return "helps" if self.gain.value > 0 else "harms"

    @property
    def text(self) -> str:
        """The verdict, a clause."""
        return self.meanings[("helps", "open", "harms").index(self.mark)]


def paired_gain(test: ScoredSet, attribute: str, row: str, than: str, bootstrap: Bootstrap) -> Estimate:
    """The A-CCC of one row minus that of another, over the speakers who have a CCC in both, who are resampled."""
    own, other = (test.row(name).scores[attribute].per_speaker for name in (row, than))
    gains = np.array([own[speaker] - other[speaker] for speaker in own if speaker in other])
    gains = gains[~np.isnan(gains)]
    if not len(gains):
        return bootstrap.estimate(np.full(2, np.nan), 0)
    return bootstrap.estimate(bootstrap.weights([None] * len(gains)) @ gains / len(gains), len(gains))


def verdicts(run: RunFiles, test: ScoredSet, attribute: str, bootstrap: Bootstrap) -> list[Verdict]:
    """The questions that a test set answers about one attribute."""
    # raw predictions are calibrated by no voices
    calibrated = [(run.chosen, "raw", CALIBRATION), (run.chosen, "random_speakers", SIMILAR)]
    asked = [*(calibrated if run.chosen != "raw" else []), ("raw", RIDGE, MODEL)]
    rows = {row.name for row in test.rows}
    return [
        Verdict(row, than, paired_gain(test, attribute, row, than, bootstrap), meanings)
        for row, than, meanings in asked
        if {row, than} <= rows
    ]
