"""95 % intervals by resampling speakers: utterances of one speaker aren't independent, speakers are."""

from __future__ import annotations

from dataclasses import dataclass
from math import nan
from typing import TYPE_CHECKING

import numpy as np
from jsonargparse.typing import restricted_number_type

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from numpy.typing import NDArray

FEWEST_SPEAKERS = 10
COVERAGE = 0.95
# of fewer draws hardly any lie beyond either end of a 95 % interval
Resamples = restricted_number_type("Resamples", int, (">=", 100))


@dataclass(frozen=True)
class Estimate:
    """A figure and its interval.

    Attributes:
        value: NaN where undefined.
        low: lower end of the 95 % interval, NaN where there is none.
        high: upper end.
        refused: why there is no interval, None where there is one.
    """

    value: float
    low: float = nan
    high: float = nan
    refused: str | None = None


@dataclass(frozen=True)
class Bootstrap:
    """How intervals are made.

    Attributes:
        resamples: how many draws of the speakers.
        seed: the same seed draws the same speakers.
        fewest: speakers below which there is no interval (ours): the percentiles of a handful of speakers promise a
            certainty that isn't there.
    """

    resamples: int = 2000
    seed: int = 0
    fewest: int = FEWEST_SPEAKERS

    def weights(self, strata: Sequence[Hashable]) -> NDArray[np.float64]:
        """How often each speaker counts, (1 + resamples, speakers): once each, and as often as each draw has them.

        Args:
            strata: (speakers,), each stratum keeps its number of speakers, so that no group runs empty.
        """
        rng = np.random.default_rng(self.seed)
        rows_of: dict[Hashable, list[int]] = {}
        for row, stratum in enumerate(strata):
            rows_of.setdefault(stratum, []).append(row)
        weights = np.ones((1 + self.resamples, len(strata)))
        for rows in rows_of.values():
            weights[1:, rows] = rng.multinomial(len(rows), np.full(len(rows), 1 / len(rows)), size=self.resamples)
        return weights

    def estimate(self, values: NDArray[np.float64], speakers: int) -> Estimate:
        """Give a figure its percentile interval, or the reason why it has none.

        Args:
            values: (1 + resamples,), the figure of the speakers as they are, then of each draw; NaN where undefined.
            speakers: behind the figure, of the smaller side where it is a difference.
        """
        value, drawn = float(values[0]), values[1:]
        if speakers < self.fewest:
            return Estimate(value, refused=f"{speakers} speakers, an interval takes {self.fewest}")
        if np.isnan(value) or np.isnan(drawn).all():
            return Estimate(value, refused="undefined")
        low, high = np.nanquantile(drawn, [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2])
        return Estimate(value, float(low), float(high))
