"""95 % intervals, by resampling speakers, whose utterances aren't independent: what they show, how they are written."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from math import nan
from typing import Any, Literal

import numpy as np
from jsonargparse.typing import restricted_number_type
from numpy.typing import ArrayLike, NDArray

from ser_personal.calibration.pldc import FLOAT32_ROUNDING
from ser_personal.calibration.table import decimal
from ser_personal.evaluation.run_files import RIDGE, RunFiles, ScoredSet
from ser_personal.scores import Values

COVERAGE = 0.95
# of fewer, the 2.5 % beyond either end are two values or less
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
    fewest: int = 10  # speakers for an interval (ours): the percentiles of a handful look too certain

    def weights(self, strata: Sequence[Hashable]) -> Values:
        """How often each draw has each speaker, (1 + resamples, speakers), once each first; strata keep their sizes."""
        rng = np.random.default_rng(self.seed)
        rows_of: dict[Hashable, list[int]] = {}
        for row, stratum in enumerate(strata):
            rows_of.setdefault(stratum, []).append(row)
        weights = np.ones((1 + self.resamples, len(strata)))
        for rows in rows_of.values():
            weights[1:, rows] = rng.multinomial(len(rows), np.full(len(rows), 1 / len(rows)), size=self.resamples)
        return weights

    def estimate(self, values: Values, speakers: int) -> Estimate:
        """Make an estimate with a percentile interval, or with the reason why there is none.

        Values (1 + resamples,) are of the speakers as they are, then of each draw, NaN where undefined; `speakers` is
        how many a value is computed from, of the smaller side where it is a difference.
        """
        value, drawn = float(values[0]), values[1:]
        if speakers < self.fewest:
            return Estimate(value, refused=f"{speakers} speakers, an interval needs {self.fewest}")
        if np.isnan(value) or np.isnan(drawn).all():
            return Estimate(value, refused="undefined")
        low, high = np.nanquantile(drawn, [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2])
        return Estimate(value, float(low), float(high))

    def mean(self, values: NDArray[Any]) -> Estimate:
        """Estimate the mean of values (speakers,) over the speakers, NaN of no speaker."""
        number = len(values)
        means = self.weights([None] * number) @ values / number if number else np.full(2, nan)
        return self.estimate(means, number)


def signed(value: float) -> str:
    """A difference with its sign: +.021."""
    text = decimal(value)
    return f"+{text}" if value > 0 and text != ".000" else text


def interval(estimate: Estimate, number: Callable[[float], str] = decimal) -> str:
    """A value, with its interval if it has one: .683 (.532 to .815)."""
    value = number(estimate.value)
    return value if estimate.refused else f"{value} ({number(estimate.low)} to {number(estimate.high)})"


def signed_interval(estimate: Estimate) -> str:
    """A difference, signed, with its interval if it has one."""
    return interval(estimate, signed)


Mark = Literal["helps", "open", "harms"]
# what the difference of two rows means where its interval lies above 0, holds 0, and lies below
CALIBRATION: dict[Mark, str] = {
    "helps": "calibration helps",
    "open": "no effect of calibration is shown",
    "harms": "calibration harms",
}
SIMILAR: dict[Mark, str] = {
    "helps": "similar voices calibrate better than random ones",
    "open": "no gain of similar over random voices is shown",
    "harms": "random voices calibrate better than similar ones",
}
MODEL: dict[Mark, str] = {
    "helps": "the model is better than ridge regression",
    "open": "no difference to ridge regression is shown",
    "harms": "ridge regression is better than the model",
}


@dataclass(frozen=True)
class Verdict:
    """What one paired difference in A-CCC shows; without an interval the question stays open."""

    row: str  # of the score table
    than: str  # the row that it is compared with
    gain: Estimate  # A-CCC of `row` minus that of `than`, over the same speakers
    mark: Mark
    text: str  # a clause


def without_rounding(differences: ArrayLike) -> Values:
    """Differences of scores, 0 where they are no larger than rounding makes them."""
    exact = np.asarray(differences, dtype=np.float64)
    return np.where(np.abs(exact) <= FLOAT32_ROUNDING, 0.0, exact)


def speaker_gains(test: ScoredSet, attribute: str, row: str, than: str) -> dict[str, float]:
    """Speaker -> CCC in one row minus that in another, where both are defined; 0 where they differ by rounding."""
    own, other = (test.row(name).scores[attribute].per_speaker for name in (row, than))
    gains = {speaker: float(without_rounding(own[speaker] - other[speaker])) for speaker in own if speaker in other}
    return {speaker: gain for speaker, gain in gains.items() if not np.isnan(gain)}


def paired_gain(test: ScoredSet, attribute: str, row: str, than: str, bootstrap: Bootstrap) -> Estimate:
    """The A-CCC of one row minus that of another, over the speakers who have a CCC in both, who are resampled."""
    return bootstrap.mean(np.array([*speaker_gains(test, attribute, row, than).values()]))


def verdicts(run: RunFiles, test: ScoredSet, attribute: str, bootstrap: Bootstrap) -> list[Verdict]:
    """The questions that a test set answers about one attribute."""
    # raw predictions are calibrated by no voices
    asked = [] if run.chosen == "raw" else [(run.chosen, "raw", CALIBRATION)]
    if asked and not run.no_controls:
        asked.append((run.chosen, "random_speakers", SIMILAR))
    asked.append(("raw", RIDGE, MODEL))
    found = []
    for row, than, meanings in asked:
        if {row, than} <= {each.name for each in test.rows}:
            gain = paired_gain(test, attribute, row, than, bootstrap)
            is_open = gain.refused is not None or gain.low <= 0 <= gain.high
            mark: Mark = "open" if is_open else "helps" if gain.value > 0 else "harms"
            found.append(Verdict(row, than, gain, mark, meanings[mark]))
    return found
