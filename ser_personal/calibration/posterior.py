"""`PosteriorCalibrator`: calibrates by what voice and predictions together tell of a speaker's labels (ours)."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np

from ser_personal.calibration.controls import AffineMap
from ser_personal.calibration.pldc import CalibratedSpeaker, Calibration, check_inputs
from ser_personal.errors import UserError
from ser_personal.files import atomic_write
from ser_personal.scores import rows_by_speaker, score
from ser_personal.speakers.bank import as_float64

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import ArrayLike, NDArray
    from torch import Tensor

    from ser_personal.speakers.bank import SpeakerBank

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


# The strongest first; in units of the features' variance along an average direction.
STRENGTHS = np.array([np.inf, *np.logspace(4, -4, 33)])
_GREATEST_LEVERAGE = 1 - 1e-9


@dataclass(frozen=True, eq=False)
class LinearMap:
    """What a regression comes to.

    Attributes:
        coefficients: (features,).
        intercept: the prediction for features of 0.
    """

    coefficients: NDArray[np.float64]
    intercept: float

    def __call__(self, features: NDArray[np.float64]) -> NDArray[np.float64]:
        """Predictions (rows,) for (rows, features)."""
        predictions: NDArray[np.float64] = features @ self.coefficients + self.intercept
        return predictions


@dataclass(frozen=True, eq=False)
class Ridge(LinearMap):
    """A regression and the rows that it was fitted on.

    Attributes:
        strength: the chosen one of `STRENGTHS`; infinity where the features tell nothing.
        fitted: (rows,), predictions for the rows that it was fitted on.
        left_out: (rows,), predictions for them, each by a regression of this strength fitted without it.
    """

    strength: float
    fitted: NDArray[np.float64]
    left_out: NDArray[np.float64]

    @classmethod
    def fit(cls, features: NDArray[np.float64], targets: NDArray[np.float64], weights: NDArray[np.float64]) -> Self:
        """Regress (rows,) targets on (rows, features), shrinking all features alike and the intercept not at all.

        A row's leverage tells what leaving it out would change, so one decomposition serves all strengths and rows.
        Of equal errors the stronger wins.
        """
        share = weights / weights.sum()
        root = np.sqrt(share)[:, None]
        feature_mean, target_mean = share @ features, share @ targets
        left, singular, right = np.linalg.svd(root * (features - feature_mean), full_matrices=False)
        projected = left.T @ (root[:, 0] * (targets - target_mean))
        spread = np.mean(singular**2) or 1.0
        singular = np.where(singular > 0, singular, np.finfo(np.float64).tiny)
        kept = singular**2 / (singular**2 + STRENGTHS[:, None] * spread)
        fitted = target_mean + left @ (kept * projected).T / root
        leverage = np.minimum(left**2 @ kept.T + share[:, None], _GREATEST_LEVERAGE)
        left_out = targets[:, None] - (targets[:, None] - fitted) / (1 - leverage)
        best = int(np.argmin(share @ (targets[:, None] - left_out) ** 2))
        coefficients = right.T @ (kept[best] * projected / singular)
        intercept = float(target_mean - feature_mean @ coefficients)
        return cls(coefficients, intercept, float(STRENGTHS[best]), fitted[:, best], left_out[:, best])


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


class Spoken(NamedTuple):
    """Moments over some of a speaker's utterances; a row is a speaker, or an utterance and what it is calibrated from.

    Attributes:
        counts: (rows,), how many utterances.
        means: (rows, columns), over the utterances.
        variances: (rows, columns), population variance over the utterances.
    """

    counts: NDArray[np.float64]
    means: NDArray[np.float64]
    variances: NDArray[np.float64]


def spoken(values: NDArray[np.float64], rows_of: Mapping[str, NDArray[np.int64]], *, causal: bool = False) -> Spoken:
    """The moments that each utterance is calibrated from.

    Args:
        values: (utterances, columns).
        rows_of: speaker -> rows, in the order of time; an utterance that is nobody's has NaN, over 0 utterances.
        causal: take the speaker's utterances up to and including this one, not all of them.
    """
    counts = np.zeros(len(values))
    means, variances = np.full(values.shape, np.nan), np.full(values.shape, np.nan)
    for rows in rows_of.values():
        # deviations from the first, not from 0: equal values must have a variance of exactly 0
        first = values[rows[0]]
        deviations = values[rows] - first
        number = np.arange(1.0, len(rows) + 1)
        sums, squares = deviations.cumsum(axis=0), (deviations**2).cumsum(axis=0)
        if not causal:
            number, sums, squares = number[-1:], sums[-1:], squares[-1:]
        average = sums / number[:, None]
        counts[rows] = number
        means[rows] = first + average
        variances[rows] = np.maximum(squares / number[:, None] - average**2, 0.0)
    return Spoken(counts, means, variances)


def spoken_by(values: NDArray[np.float64], rows_of: Mapping[str, NDArray[np.int64]]) -> Spoken:
    """The moments of (utterances, columns) values over all that each speaker of `rows_of` says, in its order."""
    last = np.array([rows[-1] for rows in rows_of.values()], dtype=np.int64)
    return Spoken(*(moment[last] for moment in spoken(values, rows_of)))


PRICE = 0.002
MIN_SPEAKERS = 5


def choose(
    candidates: NDArray[np.float64],
    strengths: Sequence[float],
    labels: NDArray[np.float64],
    speaker_ids: Sequence[str | None],
    price: float = PRICE,
) -> int:
    """The candidate that gains most over the first, which changes nothing; the first itself where none gains.

    Every candidate gets the labels' moments by its own affine map, so that none wins by a correction which is the same
    for everyone. A candidate's gain is that of O-CCC and A-CCC together, less the price of its strength, and it may
    lower neither of the two. A-CCC counts where it is defined: where speakers have ten labels and more.

    Args:
        candidates: (utterances, candidates), one attribute's predictions by each.
        strengths: (candidates,), how far each departs from the first.
        labels: (utterances,), NaN where missing.
        speaker_ids: (utterances,), None where unknown.
        price: of one unit of strength, in CCC.
    """
    repeated = np.broadcast_to(labels[:, None], candidates.shape)
    matched = AffineMap.fit(candidates, repeated)(candidates, (), candidates)
    names = [str(number) for number in range(candidates.shape[1])]
    scores = score(matched, repeated, speaker_ids, names)
    values = np.array([[scores[name].overall_ccc, scores[name].average_ccc] for name in names])
    gains = values - values[0]
    gains = gains[:, ~np.isnan(values[0])]
    best, best_gain = 0, 0.0
    for number, (gain, strength) in enumerate(zip(gains, strengths, strict=True)):
        total = math.fsum(gain) - price * strength
        if total > best_gain and (gain >= 0).all():
            best, best_gain = number, total
    return best


def labelled_speakers(speaker_ids: Sequence[str | None], labels: NDArray[np.float64]) -> list[set[str]]:
    """The known speakers with a label of each attribute; labels are (utterances, attributes), NaN where missing."""
    return [
        {
            speaker
            for speaker, label in zip(speaker_ids, column, strict=True)
            if speaker is not None and not math.isnan(label)
        }
        for column in labels.T
    ]


def check_labels(speaker_ids: Sequence[str | None], labels: NDArray[np.float64], attributes: Sequence[str]) -> None:
    """Refuse labels that nothing can be chosen by.

    Raises:
        UserError: the shape doesn't match, a label is infinite, or an attribute has fewer than `MIN_SPEAKERS` speakers.
    """
    shape = (len(speaker_ids), len(attributes))
    if labels.shape != shape or np.isinf(labels).any():
        raise UserError(
            f"labels {labels.shape} are not finite numbers or NaN, {shape}",
            where="calibration",
            remedy="Give one row an utterance and one column an attribute, NaN where a label is missing",
        )
    for attribute, found in zip(attributes, labelled_speakers(speaker_ids, labels), strict=True):
        if len(found) < MIN_SPEAKERS:
            raise UserError(
                f"{len(found)} validation speakers have labels of {attribute}, and {MIN_SPEAKERS} is the least",
                where="calibration",
                remedy="Fit on more validation speakers; with fewer, one affine map for everyone (AffineMap) will do",
            )


class Amounts(NamedTuple):
    """How much of each correction is made, 0 to 1.

    Attributes:
        mean: of a speaker's mean.
        log_std: of a speaker's log-deviation.
    """

    mean: float
    log_std: float


CHOICES = tuple(Amounts(*pair) for pair in product((0.0, 0.25, 0.5, 0.75, 1.0), repeat=2))


class Estimates(NamedTuple):
    """Both moments that each of some utterances is calibrated by.

    Attributes:
        mean: label points.
        log_std: of the deviation in label points.
    """

    mean: Estimate
    log_std: Estimate


class CalibratedAttribute(NamedTuple):
    """One attribute of some utterances.

    Attributes:
        predictions: (utterances,), label points.
        label_mean: (utterances,), label points, what the speaker's labels are expected to have.
        label_std: (utterances,), label points, as above.
    """

    predictions: NDArray[np.float64]
    label_mean: NDArray[np.float64]
    label_std: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class AttributePosterior:
    """What calibrates one attribute.

    Attributes:
        affine: the map for everyone, which comes first.
        voice: pooled vectors -> moments of the speaker's labels.
        mean: corrects a speaker's mean.
        log_std: corrects a speaker's log-deviation.
        amounts: of the two corrections.
        rematch: a map for everyone, which comes last and gives the validation set the moments of its labels again.
    """

    affine: AffineMap
    voice: VoiceEstimate
    mean: Correction
    log_std: Correction
    amounts: Amounts
    rematch: AffineMap

    @classmethod
    def fit(
        cls,
        voice: VoiceEstimate,
        predictions: NDArray[np.float64],
        speaker_ids: Sequence[str],
        pooled: NDArray[np.float64],
        labels: NDArray[np.float64],
        price: float,
    ) -> Self:
        """Fit on (utterances,) predictions and labels, NaN where missing, of speakers with one label or more each."""
        affine = AffineMap.fit(predictions[:, None], labels[:, None])
        mapped = map_column(affine, predictions)
        rows_of = rows_by_speaker(speaker_ids)
        mean, log_std = _fit_corrections(np.column_stack([mapped, voice(pooled)]), labels, rows_of)
        identity = AffineMap(np.ones(1), np.zeros(1))
        unmoved = cls(affine, voice, mean.correction, log_std.correction, Amounts(0.0, 0.0), identity)
        estimates = unmoved._estimates(unmoved._told(mapped, rows_of, pooled, causal=False))
        # the amounts have to hold for speakers whom no correction was fitted on
        speaker = np.unique(speaker_ids, return_inverse=True)[1]
        left_out = Estimates(
            estimates.mean._replace(correction=mean.left_out[speaker]),
            estimates.log_std._replace(correction=log_std.left_out[speaker]),
        )
        candidates = np.column_stack([_correct(mapped, left_out, amounts) for amounts in CHOICES])
        amounts = CHOICES[choose(candidates, [sum(amounts) for amounts in CHOICES], labels, speaker_ids, price)]
        corrected = _correct(mapped, estimates, amounts)
        return replace(unmoved, amounts=amounts, rematch=AffineMap.fit(corrected[:, None], labels[:, None]))

    def __call__(
        self,
        predictions: NDArray[np.float64],
        rows_of: Mapping[str, NDArray[np.int64]],
        pooled: NDArray[np.float64],
        *,
        causal: bool = False,
    ) -> CalibratedAttribute:
        """Calibrate (utterances,) predictions, every one of a speaker in `rows_of`."""
        mapped = map_column(self.affine, predictions)
        return self._calibrated(mapped, self._told(mapped, rows_of, pooled, causal=causal))

    def by_moments(
        self, prediction: float, utterances: int, mean: float, std: float, vector: NDArray[np.float64]
    ) -> float:
        """Calibrate one prediction by what its speaker has said so far.

        Args:
            prediction: label points.
            utterances: how many the speaker has said, this one included.
            mean: of their predictions, label points.
            std: of their predictions, label points.
            vector: (dim,), mean of their `pooled`.
        """
        slope, intercept = float(self.affine.slope[0]), float(self.affine.intercept[0])
        moments = Spoken(
            counts=np.array([float(utterances)]),
            means=np.column_stack([[slope * mean + intercept], self.voice(vector[None])]),
            variances=np.array([[(slope * std) ** 2]]),
        )
        return float(self._calibrated(np.array([slope * prediction + intercept]), moments).predictions[0])

    def _calibrated(self, mapped: NDArray[np.float64], told: Spoken) -> CalibratedAttribute:
        estimates = self._estimates(told)
        return CalibratedAttribute(
            predictions=map_column(self.rematch, _correct(mapped, estimates, self.amounts)),
            label_mean=estimates.mean.expected,
            label_std=np.exp(estimates.log_std.expected),
        )

    def _told(
        self,
        mapped: NDArray[np.float64],
        rows_of: Mapping[str, NDArray[np.int64]],
        pooled: NDArray[np.float64],
        *,
        causal: bool,
    ) -> Spoken:
        """Moments of mapped predictions and of the voice's two estimates, in columns."""
        return spoken(np.column_stack([mapped, self.voice(pooled)]), rows_of, causal=causal)

    def _estimates(self, told: Spoken) -> Estimates:
        own_log_std = measured_log_std(told, 0, usual=self.mean.own.noise)
        return Estimates(
            mean=self.mean(told.means[:, 0], told.means[:, 1], told.counts),
            log_std=self.log_std(own_log_std.values, told.means[:, 2], told.counts),
        )


def map_column(affine: AffineMap, predictions: NDArray[np.float64]) -> NDArray[np.float64]:
    """Map (utterances,) predictions by a map of one attribute."""
    return affine(predictions[:, None], (), predictions)[:, 0]


def _fit_corrections(
    values: NDArray[np.float64], labels: NDArray[np.float64], rows_of: Mapping[str, NDArray[np.int64]]
) -> tuple[FittedCorrection, FittedCorrection]:
    """Fit those of mean and log-deviation; columns of `values` are the prediction and the voice's two estimates."""
    told = spoken_by(values, rows_of)
    true = spoken_by(labels[:, None], {speaker: rows[~np.isnan(labels[rows])] for speaker, rows in rows_of.items()})
    own_mean, true_mean = measured_mean(told, 0), measured_mean(true, 0)
    mean = Correction.fit(own_mean, measured_mean(told, 1), true_mean)
    log_std = Correction.fit(
        measured_log_std(told, 0, own_mean.noise),
        measured_mean(told, 2),
        measured_log_std(true, 0, true_mean.noise),
    )
    return mean, log_std


def _correct(mapped: NDArray[np.float64], estimates: Estimates, amounts: Amounts) -> NDArray[np.float64]:
    """Shift each speaker's mean and scale the deviations from it."""
    mean = estimates.mean.own
    scale = np.exp(amounts.log_std * estimates.log_std.correction)
    return mean + amounts.mean * estimates.mean.correction + scale * (mapped - mean)


@dataclass(frozen=True, eq=False)
class VoiceEstimate:
    """Two regressions over the training speakers, for one attribute.

    Both are linear, so a speaker's estimate is the mean of the utterances' estimates.

    Attributes:
        mean: speaker vector -> label mean, label points.
        log_std: speaker vector -> log of the label deviation.
    """

    mean: LinearMap
    log_std: LinearMap

    @classmethod
    def fit(cls, bank: SpeakerBank, attribute: str) -> Self:
        """Regress over the bank; a speaker weighs by how well so many labels tell the moment.

        Raises:
            UserError: no training speaker has a label of the attribute.
        """
        column = bank.attributes.index(attribute)
        labelled = bank.count[:, column] > 0
        if not labelled.any():
            raise UserError(
                f"no training speaker has a label of {attribute}",
                where="speaker bank",
                remedy="Build the bank over labelled training utterances",
            )
        moments = Spoken(
            counts=bank.count[labelled, column].astype(np.float64),
            means=bank.label_mean[labelled, column : column + 1],
            variances=bank.label_std[labelled, column : column + 1] ** 2,
        )
        mean = measured_mean(moments, 0)
        log_std = measured_log_std(moments, 0, mean.noise)
        vectors = bank.vectors[labelled]
        return cls(
            mean=Ridge.fit(vectors, mean.values, mean.precisions()),
            log_std=Ridge.fit(vectors, log_std.values, log_std.precisions()),
        )

    def __call__(self, pooled: NDArray[np.float64]) -> NDArray[np.float64]:
        """Estimates (utterances, 2) of label mean and log-deviation."""
        return np.column_stack([self.mean(pooled), self.log_std(pooled)])


class PosteriorCalibrator:
    r"""Calibration that changes predictions only as far as validation speakers show that it helps (ours).

    PLDC gives a speaker the moments of similar speakers' labels, however little voices tell of labels, and forgets
    what the predictions themselves tell. Here, for each attribute by itself:

    1. One affine map for everyone gives the predictions the labels' moments (`AffineMap`).
    2. Over the *training* speakers, label mean and log-deviation are regressed on the speaker vector.
    3. Over the *validation* speakers, what the mapped predictions' mean and log-deviation still lack of the labels' is
       regressed on both that estimate and the predictions' own moment.
    4. How much of either correction is made, from nothing to all, is chosen on validation: the greatest gain of O-CCC
       and A-CCC that lowers neither, less `price` for each correction made in full.
    5. Another affine map gives the validation set the labels' moments again, as it does with each of the choices.

    A speaker's prediction :math:`y` becomes, up to that last map,

    .. math::

        \tilde y = \hat\mu + \alpha \Delta_\mu + e^{\beta \Delta_\sigma} (y - \hat\mu)

    with :math:`\hat\mu` the mean of the speaker's mapped predictions, :math:`\Delta_\mu` and :math:`\Delta_\sigma` the
    corrections and :math:`\alpha, \beta` their amounts. Regressions are ridge regressions whose strength, up to
    infinite, is the best at predicting left-out speakers. A speaker of few utterances weighs less in them, and what
    few utterances tell is drawn towards everyone's mean. No correction exceeds the validation speakers'.

    Calibration reads no label and no other speaker of the test set. An unknown speaker (None) gets the first map alone.

    Args:
        bank: the training speakers.
        attributes: names of the predictions' columns, each one of the bank's; None means the bank's own, in its order.
        price: of a correction in full, in CCC; more of it means fewer corrections.

    Attributes:
        fitted: attribute -> what was fitted, such as the chosen `amounts`; empty before `fit`.
    """

    def __init__(self, bank: SpeakerBank, attributes: Sequence[str] | None = None, *, price: float = PRICE) -> None:
        self.bank = bank
        self.attributes = bank.attributes if attributes is None else tuple(attributes)
        self.price = price
        self.fitted: dict[str, AttributePosterior] = {}
        self._voices: dict[str, VoiceEstimate] = {}

    def fit(
        self,
        predictions: ArrayLike | Tensor,
        speaker_ids: Sequence[str | None],
        pooled: ArrayLike | Tensor,
        labels: ArrayLike | Tensor,
    ) -> Self:
        """Fit on validation speakers, none of whom should be in the bank.

        Args:
            predictions: (utterances, attributes), label points, array or tensor.
            speaker_ids: (utterances,); utterances of unknown speakers (None) are left out.
            pooled: (utterances, dim), array or tensor, by the model that made the bank.
            labels: (utterances, attributes), label points, NaN where missing.

        Raises:
            UserError: as by `calibrate`; labels whose shape doesn't match or which are infinite; fewer than five
                speakers with labels of an attribute, here, or none in the bank.
        """
        predicted, vectors, annotated = (as_float64(array) for array in (predictions, pooled, labels))
        check_inputs(predicted, speaker_ids, vectors, self.bank, self.attributes)
        check_labels(speaker_ids, annotated, self.attributes)
        fitted = {}
        labelled = labelled_speakers(speaker_ids, annotated)
        for column, attribute in enumerate(self.attributes):
            rows = [row for row, speaker in enumerate(speaker_ids) if speaker in labelled[column]]
            fitted[attribute] = AttributePosterior.fit(
                self._voice(attribute),
                predicted[rows, column],
                [str(speaker_ids[row]) for row in rows],
                vectors[rows],
                annotated[rows, column],
                self.price,
            )
        self.fitted = fitted
        return self

    def _voice(self, attribute: str) -> VoiceEstimate:
        """The regressions over the bank, which are the same for whatever validation speakers."""
        if attribute not in self._voices:
            self._voices[attribute] = VoiceEstimate.fit(self.bank, attribute)
        return self._voices[attribute]

    def calibrate(
        self,
        predictions: ArrayLike | Tensor,
        speaker_ids: Sequence[str | None],
        pooled: ArrayLike | Tensor,
        *,
        causal: bool = False,
    ) -> Calibration:
        """Calibrate, each speaker by the speaker's own utterances in this call.

        Args:
            predictions: (utterances, attributes), label points, array or tensor.
            speaker_ids: (utterances,), None where unknown.
            pooled: (utterances, dim), array or tensor, by the model that made the bank.
            causal: calibrate each utterance by what its speaker has said up to and including it, as a live system has
                to; utterances are then in the order of time. A speaker's last utterance comes out as without it.

        Returns:
            The predictions and, of each known speaker, mean and deviation of the predictions as they came (`mu`,
            `sigma`) and those expected of the labels, by all that the speaker says (`mu_bar`, `sigma_bar`), however
            much of the way there the predictions went. There are no neighbours.

        Raises:
            UserError: not fitted, an empty bank, attributes that aren't the bank's, shapes that don't match, or a NaN
                or infinity, naming the speaker.
        """
        predicted, vectors = as_float64(predictions), as_float64(pooled)
        if not self.fitted:
            raise UserError(
                "not fitted", where="PosteriorCalibrator", remedy="Call fit(...) with the validation set first"
            )
        check_inputs(predicted, speaker_ids, vectors, self.bank, self.attributes)
        known = np.array([speaker is not None for speaker in speaker_ids], dtype=bool)
        rows_of = rows_by_speaker([speaker for speaker in speaker_ids if speaker is not None])
        last = np.array([rows[-1] for rows in rows_of.values()], dtype=np.int64)
        calibrated = np.empty_like(predicted)
        mu_bar, sigma_bar = np.empty((2, len(last), len(self.attributes)))
        for column, posterior in enumerate(self.fitted.values()):
            calibrated[~known, column] = map_column(posterior.affine, predicted[~known, column])
            of_known = posterior(predicted[known, column], rows_of, vectors[known], causal=causal)
            calibrated[known, column] = of_known.predictions
            mu_bar[:, column], sigma_bar[:, column] = of_known.label_mean[last], of_known.label_std[last]
        own = spoken_by(predicted[known], rows_of)
        speakers = [
            CalibratedSpeaker(
                speaker_id=speaker,
                utterances=len(rows),
                neighbours=(),
                cosines=np.empty(0),
                mu=own.means[number],
                sigma=np.sqrt(own.variances[number]),
                mu_bar=mu_bar[number],
                sigma_bar=sigma_bar[number],
            )
            for number, (speaker, rows) in enumerate(rows_of.items())
        ]
        return Calibration(calibrated, self.attributes, tuple(speakers))

    def __call__(
        self, predictions: NDArray[np.float64], speaker_ids: Sequence[str | None], pooled: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Calibrated predictions, (utterances, attributes)."""
        return self.calibrate(predictions, speaker_ids, pooled).predictions


FORMAT = "ser_personal.posterior"
FORMAT_VERSION = 1

Fitted = dict[str, AttributePosterior]


def save_posterior(fitted: Mapping[str, AttributePosterior], path: Path) -> None:
    """Write what `PosteriorCalibrator.fit` found, attribute -> posterior, as JSON."""
    attributes = {attribute: _as_json(posterior) for attribute, posterior in fitted.items()}
    content = {"format": FORMAT, "version": FORMAT_VERSION, "attributes": attributes}
    atomic_write(path, f"{json.dumps(content, allow_nan=False)}\n".encode())


def load_posterior(path: Path) -> Fitted:
    """Read what `save_posterior` wrote.

    Raises:
        UserError: the file isn't one, or is of a newer format.
    """
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] == FORMAT and content["version"] > FORMAT_VERSION:
            raise UserError(
                f"posterior of format {content['version']}; this version reads up to {FORMAT_VERSION}",
                where=path,
                remedy="Update ser_personal",
            )
        return {attribute: _from_json(told) for attribute, told in content["attributes"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError("isn't a posterior", where=path, remedy="Give the one that `ser export` wrote") from error


def _as_json(posterior: AttributePosterior) -> dict[str, Any]:
    return {
        "affine": _affine_as_json(posterior.affine),
        "voice": {
            "mean": _linear_as_json(posterior.voice.mean),
            "log_std": _linear_as_json(posterior.voice.log_std),
        },
        "mean": _correction_as_json(posterior.mean),
        "log_std": _correction_as_json(posterior.log_std),
        "amounts": posterior.amounts._asdict(),
        "rematch": _affine_as_json(posterior.rematch),
    }


def _from_json(told: dict[str, Any]) -> AttributePosterior:
    return AttributePosterior(
        affine=_affine(told["affine"]),
        voice=VoiceEstimate(_linear(told["voice"]["mean"]), _linear(told["voice"]["log_std"])),
        mean=_correction(told["mean"]),
        log_std=_correction(told["log_std"]),
        amounts=Amounts(**told["amounts"]),
        rematch=_affine(told["rematch"]),
    )


def _affine_as_json(affine: AffineMap) -> dict[str, float]:
    return {"slope": float(affine.slope[0]), "intercept": float(affine.intercept[0])}


def _affine(told: dict[str, float]) -> AffineMap:
    return AffineMap(np.array([float(told["slope"])]), np.array([float(told["intercept"])]))


def _linear_as_json(linear: LinearMap) -> dict[str, Any]:
    return {"coefficients": linear.coefficients.tolist(), "intercept": linear.intercept}


def _linear(told: dict[str, Any]) -> LinearMap:
    return LinearMap(np.array(told["coefficients"], dtype=np.float64), float(told["intercept"]))


def _correction_as_json(correction: Correction) -> dict[str, Any]:
    return {
        "own": asdict(correction.own),
        "voice": asdict(correction.voice),
        "regression": _linear_as_json(correction.regression),
        "least": correction.least,
        "greatest": correction.greatest,
    }


def _correction(told: dict[str, Any]) -> Correction:
    return Correction(
        own=Shrinkage(**told["own"]),
        voice=Shrinkage(**told["voice"]),
        regression=_linear(told["regression"]),
        least=float(told["least"]),
        greatest=float(told["greatest"]),
    )
