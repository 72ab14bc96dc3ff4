"""One recipe under one calibration, as its speakers' moments tell it: O-CCC and A-CCC of any draw of the speakers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class System:
    """A row of the comparison, on one test set and attribute.

    Seeds, and the draws of a control by chance, are replicates: a figure of a system is the mean of its replicates'.

    Attributes:
        recipe: name.
        calibration: raw, sigma, posterior, ...
        is_oracle: it read test labels, so it is never a result.
        seeds: how many.
        utterances: (speakers,), labelled, the same in every replicate.
        moments: (replicates, speakers, 5), the columns of `MOMENTS`: means and variances of predictions and labels, and
            their covariance.
        ccc: (replicates, speakers), each speaker's own, NaN where undefined.
    """

    recipe: str
    calibration: str
    is_oracle: bool
    seeds: int
    utterances: NDArray[np.float64]
    moments: NDArray[np.float64]
    ccc: NDArray[np.float64]

    @property
    def name(self) -> str:
        """Recipe and calibration, as a baseline is named."""
        return f"{self.recipe}/{self.calibration}"

    @cached_property
    def defined(self) -> NDArray[np.bool_]:
        """Speakers (speakers,) whose own CCC is defined in every replicate."""
        return np.asarray(~np.isnan(self.ccc).any(axis=0))

    @cached_property
    def _sums(self) -> NDArray[np.float64]:
        """What each speaker adds, (replicates, speakers, 6): n, and sums of p, l, p², l², pl around the mean label."""
        n = self.utterances
        middle = n @ self.moments[0, :, 1] / n.sum()
        p, label = self.moments[..., 0] - middle, self.moments[..., 1] - middle
        squares = (self.moments[..., 2] + p**2, self.moments[..., 3] + label**2, self.moments[..., 4] + p * label)
        return np.stack(np.broadcast_arrays(n, n * p, n * label, *(n * each for each in squares)), axis=-1)

    def overall_ccc(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """O-CCC (draws,) over all utterances, each speaker taken as often as weights (draws, speakers) say."""
        with np.errstate(invalid="ignore", divide="ignore"):
            n, p, label, pp, ll, pl = np.moveaxis(weights @ self._sums, -1, 0)
            mean_p, mean_l = p / n, label / n
            covariance = pl / n - mean_p * mean_l
            spread = pp / n - mean_p**2 + ll / n - mean_l**2 + (mean_p - mean_l) ** 2
            return np.asarray((2 * covariance / spread).mean(axis=0))

    def average_ccc(self, weights: NDArray[np.float64], counted: NDArray[np.bool_]) -> NDArray[np.float64]:
        """A-CCC (draws,) over the counted speakers (speakers,), each one's own CCC averaged over replicates first."""
        if not counted.any():
            return np.full(len(weights), np.nan)
        own = self.ccc[:, counted].mean(axis=0)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(weights[:, counted] @ own / weights[:, counted].sum(axis=1))
