"""What a moment of a speaker's predictions lacks of the labels' moment, told by itself and by the voice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ser_personal.calibration.measured import Shrinkage
from ser_personal.calibration.ridge import LinearMap, Ridge

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ser_personal.calibration.measured import Measured


class Estimate(NamedTuple):
    """One moment, mean or log-deviation, of what is calibrated.

    Attributes:
        own: (n,), of the speaker's predictions, shrunk by counts.
        correction: (n,), which added to `own` gives the expected moment of the labels.
    """

    own: NDArray[np.float64]
    correction: NDArray[np.float64]

    @property
    def expected(self) -> NDArray[np.float64]:
        """The expected moment of the labels, (n,)."""
        return self.own + self.correction


@dataclass(frozen=True, eq=False)
class Correction:
    """A regression over the validation speakers, who had no part in training: it learns how far to trust the voice.

    Attributes:
        own: shrinks the moment of the speaker's predictions.
        voice: shrinks the moment that the voice tells.
        regression: (own, voice) -> the labels' moment less the own one.
        least: of the validation speakers' corrections, which none is below.
        greatest: of them, which none exceeds.
    """

    own: Shrinkage
    voice: Shrinkage
    regression: LinearMap
    least: float
    greatest: float

    @classmethod
    def fit(cls, own: Measured, voice: Measured, labels: Measured) -> FittedCorrection:
        """Regress over speakers; one weighs by how well so many labels tell the moment."""
        shrink_own, shrink_voice = Shrinkage.fit(own), Shrinkage.fit(voice)
        shrunken = shrink_own(own.values, own.counts)
        lacking = labels._replace(values=labels.values - shrink_own.center - shrunken)
        features = np.column_stack([shrunken, shrink_voice(voice.values, voice.counts)])
        ridge = Ridge.fit(features, lacking.values, lacking.precisions())
        regression = LinearMap(ridge.coefficients, ridge.intercept)
        least, greatest = float(ridge.fitted.min()), float(ridge.fitted.max())
        return FittedCorrection(cls(shrink_own, shrink_voice, regression, least, greatest), ridge.left_out)

    def __call__(self, own: NDArray[np.float64], voice: NDArray[np.float64], counts: NDArray[np.float64]) -> Estimate:
        """Estimate from (n,) moments over (n,) counts of utterances; no correction exceeds the validation speakers'."""
        shrunken = self.own(own, counts)
        correction = self.regression(np.column_stack([shrunken, self.voice(voice, counts)]))
        return Estimate(self.own.center + shrunken, correction.clip(self.least, self.greatest))


class FittedCorrection(NamedTuple):
    """A correction and what it is worth.

    Attributes:
        correction: fitted on all speakers.
        left_out: (speakers,), correction of each by a regression fitted without the speaker.
    """

    correction: Correction
    left_out: NDArray[np.float64]
