"""O-CCC and A-CCC: how well predictions follow the labels over everyone, and within the average speaker.

Beneath them the arithmetic that everything here shares: running moments, and the CCC made of moments or of sums.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from numbers import Real
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ser_personal.errors import UserError

Values = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Moments:
    """Count, mean and spread of values that come one by one, in parts or all at once; of many columns side by side.

    By the updates of Welford (1962) and of Chan, Golub and LeVeque (1983): unlike a sum of squares they lose no digits,
    and equal values have a standard deviation of exactly 0. Missing values (NaN) are left out column by column.

    Attributes:
        count: (...), how many values.
        mean: (...), 0 where there are none.
        m2: (...), summed squared deviations from the mean.
    """

    count: NDArray[Any]
    mean: NDArray[np.float64]
    m2: NDArray[np.float64]

    @classmethod
    def empty(cls, *shape: int) -> Self:
        """Moments (...) of no value."""
        return cls(np.zeros(shape, dtype=np.int64), np.zeros(shape), np.zeros(shape))

    @classmethod
    def of(cls, values: NDArray[Any]) -> Self:
        """Moments (...) of values (n, ...), NaN where missing."""
        if len(values) == 0:
            return cls.empty(*values.shape[1:])
        values = values.astype(np.float64, copy=False)
        known = ~np.isnan(values)
        count = known.sum(axis=0)
        first = np.take_along_axis(values, known.argmax(axis=0)[None], axis=0)[0]
        from_first = np.where(known, values - first, 0.0)
        mean = from_first.sum(axis=0) / np.maximum(count, 1)
        m2 = np.where(known, from_first - mean, 0.0) ** 2
        return cls(count, np.where(count > 0, first + mean, 0.0), m2.sum(axis=0))

    @classmethod
    def by_speaker(cls, values: NDArray[Any], rows_of: Mapping[str, NDArray[np.int64]]) -> Self:
        """Moments (speakers, ...) of values (n, ...), NaN where missing; `rows_of` maps a speaker to some rows."""
        return cls.stack([cls.of(values[rows]) for rows in rows_of.values()], *values.shape[1:])

    @classmethod
    def stack(cls, each: Sequence[Moments], *shape: int) -> Self:
        """Stack n moments of a shape to moments (n, *shape)."""
        return cls(
            *(np.reshape([getattr(one, name) for one in each], (len(each), *shape)) for name in ("count", "mean", "m2"))
        )

    def add(self, value: NDArray[np.float64]) -> Self:
        """Moments with one more value (...), NaN where it is missing."""
        known = ~np.isnan(value)
        return self.merge(type(self)(known.astype(np.int64), np.where(known, value, 0.0), np.zeros(value.shape)))

    def merge(self, other: Moments) -> Self:
        """Moments of the values of both."""
        count = self.count + other.count
        share = other.count / np.maximum(count, 1)
        distance = other.mean - self.mean
        m2 = self.m2 + other.m2 + distance**2 * self.count * share
        return type(self)(count, self.mean + distance * share, m2)

    def total(self) -> Self:
        """Moments of the values of all rows together, the rows being the first dimension."""
        count = self.count.sum(axis=0)
        mean = (self.count * self.mean).sum(axis=0) / np.maximum(count, 1)
        return type(self)(count, mean, (self.m2 + self.count * (self.mean - mean) ** 2).sum(axis=0))

    def __getitem__(self, index: Any) -> Self:
        return type(self)(self.count[index], self.mean[index], self.m2[index])

    @property
    def variance(self) -> NDArray[np.float64]:
        """Population variance (ddof 0), (...), NaN where there are no values."""
        return np.where(self.count > 0, self.m2 / np.where(self.count > 0, self.count, 1), np.nan)

    @property
    def std(self) -> NDArray[np.float64]:
        """Population standard deviation (ddof 0), (...), NaN where there are no values."""
        return np.sqrt(self.variance)


@dataclass(frozen=True)
class AttributeScores:
    """The scores of one attribute; NaN where undefined, never 0.

    Attributes:
        overall_ccc: O-CCC, one CCC over all labelled utterances, of unknown speakers too.
        average_ccc: A-CCC, mean over the counted speakers of each one's own CCC.
        average_ccc_std: population standard deviation of those CCCs over the counted speakers.
        speakers: how many speakers A-CCC counts.
        undefined_speakers: speakers with enough utterances whose CCC is 0 / 0; A-CCC leaves them out.
        utterances: labelled utterances.
        per_speaker: speaker -> CCC for every speaker with enough labelled utterances, NaN where undefined.
    """

    overall_ccc: float
    average_ccc: float
    average_ccc_std: float
    speakers: int
    undefined_speakers: int
    utterances: int
    per_speaker: dict[str, float]


Scores = dict[str, AttributeScores]


def score(
    predictions: ArrayLike,
    labels: ArrayLike,
    speaker_ids: Sequence[str | None],
    attributes: Sequence[str],
    *,
    min_utterances: int = 10,
) -> Scores:
    """O-CCC and A-CCC of every attribute, in float64 (paper, section 4; the least number of utterances is ours).

    Args:
        predictions: (utterances, attributes), label points.
        labels: (utterances, attributes), NaN where missing; left out attribute by attribute.
        speaker_ids: (utterances,), None where unknown.
        attributes: names of the columns.
        min_utterances: labelled utterances a speaker must have to count in A-CCC; the CCC of a few is mostly chance.
    """
    predicted, labelled = np.asarray(predictions, dtype=np.float64), np.asarray(labels, dtype=np.float64)
    shape = (len(speaker_ids), len(attributes))
    if predicted.shape != shape or labelled.shape != shape:
        what = f"predictions {predicted.shape} and labels {labelled.shape} are not (utterances, attributes) = {shape}"
        remedy = "Give one row per utterance and one column per attribute, in one order"
        raise UserError(what, where="scores", remedy=remedy)
    if not np.isfinite(predicted).all():
        row = int(np.argmin(np.isfinite(predicted).all(axis=1)))
        what = f"the prediction for utterance {row} (speaker {speaker_names(speaker_ids)[row]}) is not a finite number"
        raise UserError(what, where="scores", remedy="The model may have diverged; try a lower learning rate")
    rows_of, scores = rows_by_speaker(speaker_ids), {}
    for attribute, x, y in zip(attributes, predicted.T, labelled.T, strict=True):
        known = ~np.isnan(y)
        own = {speaker_id: rows[known[rows]] for speaker_id, rows in rows_of.items()}
        enough = {speaker_id: rows for speaker_id, rows in own.items() if len(rows) >= min_utterances}
        per_speaker = {speaker_id: concordance(x[rows], y[rows]) for speaker_id, rows in enough.items()}
        defined = [value for value in per_speaker.values() if not math.isnan(value)]
        scores[attribute] = AttributeScores(
            overall_ccc=concordance(x[known], y[known]),
            average_ccc=float(np.mean(defined)) if defined else math.nan,
            average_ccc_std=float(np.std(defined)) if defined else math.nan,
            speakers=len(defined),
            undefined_speakers=len(per_speaker) - len(defined),
            utterances=int(known.sum()),
            per_speaker=per_speaker,
        )
    return scores


def concordance(predictions: NDArray[np.float64], labels: NDArray[np.float64]) -> float:
    """The CCC of (n,) predictions and labels as `ser_personal.finetune.concordance.ccc` defines it, without torch."""
    if len(predictions) == 0:
        return math.nan
    # constants have a standard deviation of exactly 0 only where no rounded mean is subtracted
    from_first, labels_from_first = predictions - predictions[0], labels - labels[0]
    distance = (predictions[0] - labels[0]) + (from_first.mean() - labels_from_first.mean())
    covariance = np.mean((from_first - from_first.mean()) * (labels_from_first - labels_from_first.mean()))
    return float(ccc_from_moments(distance, from_first.var() + labels_from_first.var(), covariance))


def ccc_from_moments(mean_difference: ArrayLike, variances: ArrayLike, covariance: ArrayLike) -> NDArray[np.float64]:
    """The CCC (...) of means, summed variances and covariance of predictions and labels, NaN where it is 0 / 0."""
    denominator = np.asarray(variances) + np.square(mean_difference)
    defined = denominator > 0
    return np.where(defined, 2 * np.asarray(covariance) / np.where(defined, denominator, 1.0), np.nan)


def ccc_from_sums(*sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """The CCC (...) of n and the sums over n pairs of x (predictions), y (labels), xx, yy and xy; NaN where 0 / 0.

    Sums of squares lose digits: subtract something near the mean label from predictions and labels first.
    """
    n, x, y, xx, yy, xy = sums
    with np.errstate(invalid="ignore", divide="ignore"):
        x, y = x / n, y / n
        return ccc_from_moments(x - y, xx / n - x**2 + yy / n - y**2, xy / n - x * y)


def speaker_name(speaker: Any, where: str = "speaker_ids") -> str | None:
    """A speaker's name as text, 3 and 3.0 as 3; None for what Python and tables have where one is unknown."""
    if isinstance(speaker, str):
        return speaker
    if str(speaker) in {"None", "nan", "<NA>", "NaT"}:
        return None
    is_number: bool = isinstance(speaker, Real) and not isinstance(speaker, bool)
    if is_number and speaker % 1 == 0:
        return str(int(speaker))
    raise UserError(f"{speaker!r} is no name", where=where, remedy="Give text, None where unknown")


def speaker_names(speaker_ids: Sequence[str | None]) -> list[str | None]:
    """Names in order, as `speaker_name` has them, of a list, an array, a tensor or a pandas Series of any index."""
    # the elements of a tensor are each another key
    return [speaker_name(speaker_id) for speaker_id in getattr(speaker_ids, "tolist", lambda: speaker_ids)()]


def rows_by_speaker(speaker_ids: Sequence[str | None]) -> dict[str, NDArray[np.int64]]:
    """Known speakers, sorted -> their rows, ascending; names as `speaker_name` has them."""
    rows: dict[str, list[int]] = {}
    for row, name in enumerate(speaker_names(speaker_ids)):
        if name is not None:
            rows.setdefault(name, []).append(row)
    return {speaker_id: np.asarray(rows[speaker_id], dtype=np.int64) for speaker_id in sorted(rows)}


def mean_scores(draws: Sequence[Scores]) -> Scores:
    """Mean of the scores of several random draws over the same utterances; the counts are the first draw's."""
    means = {}
    for attribute, first in draws[0].items():
        each = [draw[attribute] for draw in draws]
        mean: dict[str, Any] = {
            name: float(np.mean([getattr(scores, name) for scores in each]))
            for name in ("overall_ccc", "average_ccc", "average_ccc_std")
        }
        speakers = {name: float(np.mean([scores.per_speaker[name] for scores in each])) for name in first.per_speaker}
        means[attribute] = replace(first, **mean, per_speaker=speakers)
    return means


def as_json(scores: Scores) -> dict[str, dict[str, Any]]:
    """The scores as JSON can hold them, where NaN becomes null."""
    return {attribute: asdict(scores_of) for attribute, scores_of in scores.items()}


def from_json(content: dict[str, dict[str, Any]]) -> Scores:
    """The scores that `as_json` made."""
    return {attribute: AttributeScores(**with_nan(scores_of)) for attribute, scores_of in content.items()}


def with_nan(value: Any) -> Any:
    """What JSON holds, where null becomes NaN again."""
    if isinstance(value, dict):
        return {key: with_nan(item) for key, item in value.items()}
    return math.nan if value is None else value
