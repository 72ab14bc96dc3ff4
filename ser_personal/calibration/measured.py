"""Values measured over a speaker's utterances, and what few utterances are worth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Self

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ser_personal.calibration.spoken import Spoken

_LOG_STD_NOISE = 0.5  # n normal values tell their log-deviation with a variance of 1 / (2 n)
_LEAST_TRUE_SHARE = 1e-3
_TINY = np.finfo(np.float64).tiny


class Measured(NamedTuple):
    """One value a speaker, such as a mean, and how well so many utterances tell it.

    Attributes:
        values: (speakers,).
        counts: (speakers,), utterances that each was measured over.
        noise: variance of a value measured over one utterance; over n it is the n-th part.
    """

    values: NDArray[np.float64]
    counts: NDArray[np.float64]
    noise: float

    def precisions(self) -> NDArray[np.float64]:
        """Weights (speakers,) for a regression, 1 / (true variance between speakers + sampling variance), at most 1.

        The true variance counts as a thousandth of the measured one at least, lest one speaker of many utterances
        decide alone.
        """
        sampling, total = self.noise / self.counts, float(self.values.var())
        true = max(total - float(sampling.mean()), _LEAST_TRUE_SHARE * total)
        weights: NDArray[np.float64] = 1 / (true + sampling + _TINY)
        weights /= weights.max()
        return weights


@dataclass(frozen=True)
class Shrinkage:
    """Draws a measured value towards all speakers' mean, the more the fewer the utterances (empirical Bayes).

    Attributes:
        center: all speakers' mean.
        between: true variance between speakers.
        noise: variance of a value measured over one utterance.
    """

    center: float
    between: float
    noise: float

    @classmethod
    def fit(cls, measured: Measured) -> Self:
        """Estimate the true variance by the method of moments, and the mean by precisions."""
        between = float(measured.values.var() - np.mean(measured.noise / measured.counts))
        weights = measured.precisions()
        return cls(float(weights @ measured.values / weights.sum()), max(between, 0.0), measured.noise)

    def __call__(self, values: NDArray[np.float64], counts: NDArray[np.float64]) -> NDArray[np.float64]:
        """The expected true values (n,), less `center`, given those measured over (n,) counts of utterances."""
        kept = self.between / (self.between + self.noise / counts + _TINY)
        shrunken: NDArray[np.float64] = kept * (values - self.center)
        return shrunken


def measured_mean(moments: Spoken, column: int) -> Measured:
    """Each speaker's mean; its noise is the variance about the speaker's own mean, over all speakers."""
    variances, degrees = moments.variances[:, column], max((moments.counts - 1).sum(), 1.0)
    return Measured(moments.means[:, column], moments.counts, float(moments.counts @ variances / degrees))


def measured_log_std(moments: Spoken, column: int, usual: float) -> Measured:
    """Each speaker's log-deviation.

    The variance within a `usual` speaker counts as one more observation: it makes up for the degree of freedom that
    the mean took, and equal values keep a finite logarithm.
    """
    variances = moments.variances[:, column] + usual / moments.counts
    return Measured(0.5 * np.log(variances + _TINY), moments.counts, _LOG_STD_NOISE)
