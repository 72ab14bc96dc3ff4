"""`PosteriorCalibrator` for one utterance after the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from ser_personal.calibration.attribute_posterior import AttributePosterior
    from ser_personal.recognition.profiles import SpeakerProfile


@dataclass(frozen=True, eq=False)
class CausalPosterior:
    """The posterior by running sums: an utterance comes out as `PosteriorCalibrator` has it with `causal`.

    It needs no speaker bank: what voices tell is in its regressions.

    Attributes:
        fitted: attribute -> posterior, as `PosteriorCalibrator.fit` found it.
        attributes: names of the predictions' columns, each one of the fitted.
    """

    fitted: Mapping[str, AttributePosterior]
    attributes: tuple[str, ...]

    def __call__(self, prediction: NDArray[np.float64], profile: SpeakerProfile) -> NDArray[np.float64]:
        """The calibrated prediction, (attributes,)."""
        own = profile.moments
        return np.array(
            [
                self.fitted[attribute].by_moments(
                    float(prediction[column]),
                    profile.utterances,
                    mean=float(own.mu[column]),
                    std=float(own.sigma[column]),
                    vector=profile.vector,
                )
                for column, attribute in enumerate(self.attributes)
            ]
        )
