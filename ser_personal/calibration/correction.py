"""What a moment of a speaker's predictions lacks of the labels' moment, told by itself and by the voice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Self

import numpy as np

from ser_personal.calibration.measured import Shrinkage
from ser_personal.calibration.ridge import Ridge

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
        ridge: (own, voice) -> the labels' moment less the own one.
    """

    own: Shrinkage
    voice: Shrinkage
    ridge: Ridge

    @classmethod
    def fit(cls, own: Measured, voice: Measured, labels: Measured) -> Self:
        """Regress over speakers; one weighs by how well so many labels tell the moment."""
        shrink_own, shrink_voice = Shrinkage.fit(own), Shrinkage.fit(voice)
        shrunken = shrink_own(own.values, own.counts)
        lacking = labels._replace(values=labels.values - shrink_own.center - shrunken)
        features = np.column_stack([shrunken, shrink_voice(voice.values, voice.counts)])
        return cls(shrink_own, shrink_voice, Ridge.fit(features, lacking.values, lacking.precisions()))

    def __call__(self, own: NDArray[np.float64], voice: NDArray[np.float64], counts: NDArray[np.float64]) -> Estimate:
        """Estimate from (n,) moments over (n,) counts of utterances; no correction exceeds the validation speakers'."""
        shrunken = self.own(own, counts)
        correction = self.ridge(np.column_stack([shrunken, self.voice(voice, counts)]))
        return Estimate(self.own.center + shrunken, correction.clip(self.ridge.fitted.min(), self.ridge.fitted.max()))
