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
    """A value and its 95 % interval."""

    value: float  # NaN where undefined
    low: float = nan  # NaN where there is no interval
    high: float = nan
    refused: str | None = None  # why there is no interval


@dataclass(frozen=True)
class Bootstrap:
    """How intervals are made."""

    resamples: int = 2000  # draws of the speakers
    seed: int = 0
    fewest: int = FEWEST_SPEAKERS  # speakers for an interval (ours): the percentiles of a handful look too certain

    def weights(self, strata: Sequence[Hashable]) -> NDArray[np.float64]:
        """How often each speaker counts, (1 + resamples, speakers): once each, then as often as each draw has them.

        Args:
            strata: (speakers,), each stratum keeps its number of speakers, so that no group is ever empty.
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
        """Make an estimate with a percentile interval, or with the reason why there is none.

        Args:
            values: (1 + resamples,), of the speakers as they are, then of each draw; NaN where undefined.
            speakers: that the value is computed from, of the smaller side where it is a difference.
        """
        value, drawn = float(values[0]), values[1:]
        if speakers < self.fewest:
            return Estimate(value, refused=f"{speakers} speakers, an interval needs {self.fewest}")
        if np.isnan(value) or np.isnan(drawn).all():
            return Estimate(value, refused="undefined")
        low, high = np.nanquantile(drawn, [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2])
        return Estimate(value, float(low), float(high))
