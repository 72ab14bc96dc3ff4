"""`PosteriorCalibrator`: empirical-Bayes calibration by the speaker vector and the speaker's own predictions (ours).

Named after the posterior means that it takes of a speaker's moments, shrunken the more, the fewer the utterances.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ser_personal.calibration.controls import AffineMap
from ser_personal.calibration.pldc import CalibratedSpeaker, Calibration, check_inputs
from ser_personal.errors import UserError, as_names
from ser_personal.files import atomic_write
from ser_personal.scores import Moments, Values, rows_by_speaker, score, speaker_names
from ser_personal.speakers.bank import SpeakerBank, as_float64

MIN_SPEAKERS = 5
CORRECTION_PENALTY = 0.002  # in CCC, of a correction made in full
AMOUNT_GRID = tuple(product((0.0, 0.25, 0.5, 0.75, 1.0), repeat=2))  # of the corrections of mean and log std
RIDGE_PENALTIES = np.logspace(4, -4, 33)  # times trace / min(shape) of the features' weighted scatter matrix
_LOG_STD_VARIANCE = 0.5  # the log standard deviation of n normal values has a variance of 1 / (2 n)
_MIN_BETWEEN_SHARE = 1e-3
_TINY = np.finfo(np.float64).tiny
UNCHANGED = AffineMap(np.ones(1), np.zeros(1))


class Estimates(NamedTuple):
    """One moment per speaker, estimated from `counts` utterances; sampling variance is `within_variance / counts`."""

    values: Values
    counts: NDArray[Any]
    within_variance: float


def mean_and_log_std(moments: Moments, within_variance: float | None = None) -> tuple[Estimates, Estimates]:
    """Mean and log standard deviation of each speaker, from moments (speakers,).

    `within_variance`, pooled within speakers (estimated from these if None), counts as one more observation, so that
    equal values keep a finite logarithm.
    """
    from_moments = float(moments.m2.sum() / max((moments.count - 1).sum(), 1))
    variance = (moments.m2 + (from_moments if within_variance is None else within_variance)) / moments.count
    log_std = Estimates(0.5 * np.log(variance + _TINY), moments.count, _LOG_STD_VARIANCE)
    return Estimates(moments.mean, moments.count, from_moments), log_std


class Shrinkage(NamedTuple):
    """Shrinks an estimate to the grand mean, more for fewer utterances (empirical Bayes)."""

    center: float
    between_variance: float
    within_variance: float

    @classmethod
    def fit(cls, estimates: Estimates) -> Self:
        """Estimate the between-speaker variance by the method of moments, and the mean by precisions."""
        values, counts, within_variance = estimates
        # with no variance between speakers at all, a single one of many utterances would decide alone
        between_variance = max(values.var() - np.mean(within_variance / counts), _MIN_BETWEEN_SHARE * values.var())
        weights = cls(0.0, between_variance, within_variance).precisions(counts)
        return cls(float(np.average(values, weights=weights)), float(between_variance), within_variance)

    def precisions(self, counts: NDArray[Any]) -> Values:
        """Weights (n,) of values over (n,) counts of utterances: inverse variances, at most 1."""
        precisions = 1 / (self.between_variance + self.within_variance / counts + _TINY)
        return np.asarray(precisions / precisions.max())

    def __call__(self, estimates: Estimates) -> Values:
        """The expected true values (n,), less `center`."""
        kept = self.between_variance / (self.between_variance + self.within_variance / estimates.counts + _TINY)
        return np.asarray(kept * (estimates.values - self.center))


class Ridge(NamedTuple):
    """An affine map of (rows, features)."""

    coefficients: Values
    intercept: float

    def __call__(self, features: Values) -> Values:
        """Predictions (rows,)."""
        return np.asarray(features @ self.coefficients + self.intercept)


def fit_ridge(features: Values, targets: Estimates) -> tuple[Ridge, Values]:
    """Regress over speakers on (speakers, features), with the penalty chosen by leave-one-speaker-out.

    Returns the map, and predictions (speakers,), each by a regression of that penalty fitted without the speaker.
    """
    from sklearn.linear_model import RidgeCV

    values, counts, _ = targets
    weights = Shrinkage.fit(targets).precisions(counts)
    centered = features - np.average(features, axis=0, weights=weights)
    spread = (weights @ centered**2).sum() / min(features.shape) or 1.0
    found = RidgeCV(RIDGE_PENALTIES * spread).fit(features, values, sample_weight=weights)
    ridge = Ridge(found.coef_, float(found.intercept_))
    penalised = (weights * centered.T) @ centered + found.alpha_ * np.eye(features.shape[1])
    leverage = weights * (1 / weights.sum() + (centered * np.linalg.solve(penalised, centered.T).T).sum(axis=1))
    return ridge, values - (values - ridge(features)) / (1 - leverage)


@dataclass(frozen=True, eq=False)
class Correction:
    """Corrects one moment of a speaker's predictions, mean or log standard deviation."""

    voice: Ridge  # speaker vector -> the moment of the labels, over the training speakers
    own: Shrinkage  # of the predictions' moment
    expected: Shrinkage  # of the moment that the speaker vector predicts
    regression: Ridge  # (own, expected) -> the labels' moment less the own one, over the validation speakers
    limits: tuple[float, float]  # range of the validation speakers' corrections, to which all are clipped
    amount: float = 0.0  # of the correction that is made, 0 to 1

    @classmethod
    def fit(cls, voice: Ridge, own: Estimates, expected: Estimates, labels: Estimates) -> tuple[Self, Values]:
        """Returns the correction, and the leave-one-speaker-out corrections (speakers,)."""
        shrink_own, shrink_expected = Shrinkage.fit(own), Shrinkage.fit(expected)
        shrunken = shrink_own(own)
        features = np.column_stack([shrunken, shrink_expected(expected)])
        residual = labels._replace(values=labels.values - shrink_own.center - shrunken)
        regression, left_out = fit_ridge(features, residual)
        limits = float(regression(features).min()), float(regression(features).max())
        return cls(voice, shrink_own, shrink_expected, regression, limits), left_out

    def __call__(self, own: Estimates, expected: Values) -> tuple[Values, Values]:
        """The predictions' own moment, shrunken, and the predicted correction from it to the labels', (n,) each."""
        shrunken = self.own(own)
        features = np.column_stack([shrunken, self.expected(own._replace(values=expected))])
        return self.own.center + shrunken, self.regression(features).clip(*self.limits)


@dataclass(frozen=True, eq=False)
class AttributePosterior:
    """The calibration of one attribute: a global affine map or none, two corrections, a final global affine map."""

    affine: AffineMap
    mean: Correction
    log_std: Correction
    rematch: AffineMap

    @classmethod
    def fit(
        cls, ridges: Sequence[Ridge], predictions: Values, speaker_ids: Sequence[str], pooled: Values, labels: Values
    ) -> Self:
        """Fit on (utterances,) predictions and labels, NaN where missing, of speakers with one label or more each."""
        rows_of = rows_by_speaker(speaker_ids)
        # what is chosen has to suit speakers whom nothing was fitted on
        left_out = np.empty_like(predictions)
        for rows in rows_of.values():
            others = np.delete(np.arange(len(labels)), rows)
            left_out[rows] = AffineMap.fit(predictions[others, None], labels[others, None]).apply(predictions[rows])
        is_mapped = choose(np.column_stack([predictions, left_out]), [[0], [0]], labels, speaker_ids) == 1
        target = labels if is_mapped else predictions
        affine = AffineMap.fit(predictions[:, None], labels[:, None]) if is_mapped else UNCHANGED
        mapped = affine.apply(predictions)
        columns = mapped, labels, *(ridge(pooled) for ridge in ridges)
        own, labelled, *expected = (mean_and_log_std(Moments.by_speaker(values, rows_of)) for values in columns)
        (mean, left_out_mean), (log_std, left_out_log_std) = (
            Correction.fit(ridge, own[moment], expected[moment][0], labelled[moment])
            for moment, ridge in enumerate(ridges)
        )
        speaker = np.unique(speaker_ids, return_inverse=True)[1]
        own_mean, residual_mean = (each[speaker] for each in mean(own[0], expected[0][0].values))
        residual_log_std = log_std(own[1], expected[1][0].values)[1][speaker]
        candidates = np.column_stack(
            [
                correct(mapped, own_mean, mean_amount * left_out_mean[speaker], std_amount * left_out_log_std[speaker])
                for mean_amount, std_amount in AMOUNT_GRID
            ]
        )
        # each by its own affine map, so that none is better by a correction which is the same for everyone
        everyone = AffineMap.fit(candidates, np.broadcast_to(labels[:, None], candidates.shape))
        mean_amount, std_amount = AMOUNT_GRID[choose(everyone.apply(candidates), AMOUNT_GRID, labels, speaker_ids)]
        corrected = correct(mapped, own_mean, mean_amount * residual_mean, std_amount * residual_log_std)
        rematch = AffineMap.fit(corrected[:, None], target[:, None])
        return cls(affine, replace(mean, amount=mean_amount), replace(log_std, amount=std_amount), rematch)

    def __call__(self, predictions: Values, own: Moments, vectors: Values) -> Values:
        """Calibrate (n,) predictions of a speaker, by their moments (1,) and the speaker vector (1, dim)."""
        mapped = Moments(own.count, self.affine.apply(own.mean), self.affine.slope**2 * own.m2)
        mean, log_std = mean_and_log_std(mapped, within_variance=self.mean.own.within_variance)
        own_mean, shift = self.mean(mean, self.mean.voice(vectors))
        _, log_scale = self.log_std(log_std, self.log_std.voice(vectors))
        corrected = correct(
            self.affine.apply(predictions), own_mean, self.mean.amount * shift, self.log_std.amount * log_scale
        )
        return self.rematch.apply(corrected)


def correct(mapped: Values, own_mean: Values, mean: Values, log_std: Values) -> Values:
    """Shift a speaker's mean and scale the deviations from it."""
    return np.asarray(own_mean + mean + np.exp(log_std) * (mapped - own_mean))


def choose(candidates: Values, amounts: ArrayLike, labels: Values, speaker_ids: Sequence[str]) -> int:
    """Index of the (utterances, candidates) predictions with the greatest gain over the first ones.

    A candidate's gain is that of O-CCC and A-CCC (where it is defined) together, less
    `CORRECTION_PENALTY` times its `amounts` (candidates, corrections), and it may lower neither of the two.
    """
    repeated = np.broadcast_to(labels[:, None], candidates.shape)
    names = [str(number) for number in range(candidates.shape[1])]
    scores = score(candidates, repeated, speaker_ids, names).values()
    values = np.array([[each.overall_ccc, each.average_ccc] for each in scores])
    gains = (values - values[0])[:, ~np.isnan(values[0])]
    penalised = gains.sum(axis=1) - CORRECTION_PENALTY * np.sum(amounts, axis=1)
    total = np.where((gains >= 0).all(axis=1), penalised, -np.inf)
    return int(total.argmax()) if total.max() > 0 else 0


class PosteriorCalibrator:
    r"""Calibration that changes predictions only as far as validation speakers show that it helps (ours).

    PLDC gives a speaker the moments of similar speakers' labels, however little their vectors predict of labels. Here,
    for each attribute by itself:

    1. One global affine map gives the predictions the labels' moments (`AffineMap`), if on validation speakers whom it
       wasn't fitted on (leave-one-speaker-out) it raises O-CCC and A-CCC together and lowers neither. If not,
       predictions stay raw here.
    2. Over the *training* speakers, label mean and log standard deviation are regressed on the speaker vector.
    3. Over the *validation* speakers, the residuals (label moment minus the shrunken moment of step 1's predictions)
       are regressed on that shrunken moment and on the moment predicted in step 2, shrunken likewise.
    4. The amounts of the two corrections, 0 to 1, are chosen on validation: the greatest gain of O-CCC
       and A-CCC that lowers neither, less .002 for each correction made in full.
    5. Another affine map gives the validation set the moments again that it had after step 1. In step 4 each of the
       choices has those of the labels.

    With :math:`y` a speaker's prediction after step 1, the result is, up to step 5's map,

    .. math::

        \tilde y = \hat\mu + \alpha \Delta_\mu + e^{\beta \Delta_\sigma} (y - \hat\mu)

    with :math:`\hat\mu` the shrunken mean of the speaker's predictions after step 1, :math:`\Delta_\mu` and
    :math:`\Delta_\sigma` the corrections, clipped to the range fitted for the validation speakers, and
    :math:`\alpha, \beta` their amounts. Regressions are ridge regressions whose penalty is chosen by
    leave-one-speaker-out, speakers weighted by inverse variance. No label and no other speaker of the test set is
    read; an unknown one (None) gets step 1.

    Args:
        bank: the training speakers.
        attributes: names of the predictions' columns, each one of the bank's; None means the bank's own, in its order.

    Attributes:
        fitted: attribute -> what was fitted; empty before `fit`.
    """

    def __init__(self, bank: SpeakerBank, attributes: Sequence[str] | None = None) -> None:
        self.bank = bank
        self.attributes = bank.attributes if attributes is None else as_names("attributes", attributes)
        self.fitted: Fitted = {}

    def fit(
        self, predictions: ArrayLike, speaker_ids: Sequence[str | None], pooled: ArrayLike, labels: ArrayLike
    ) -> Self:
        """Fit on validation speakers, none of whom should be in the bank.

        The inputs are those of `ser_personal.calibrate`; utterances of unknown speakers (None) are left out. Labels are
        (utterances, attributes), label points, NaN where missing.

        Raises:
            UserError: as by `ser_personal.calibrate`; labels whose shape doesn't match or which are infinite; fewer
                than five speakers of the bank, or of these, have labels of an attribute.
        """
        predicted, vectors, given = (as_float64(array) for array in (predictions, pooled, labels))
        check_inputs(predicted, speaker_ids, vectors, self.bank, self.attributes)
        if given.shape != predicted.shape or np.isinf(given).any():
            what = f"labels {given.shape} must have shape {predicted.shape}, and be finite or NaN"
            remedy = "Give one row per utterance and one column per attribute, NaN where a label is missing"
            raise UserError(what, where="calibration", remedy=remedy)
        fitted, rows_of, names = {}, rows_by_speaker(speaker_ids), speaker_names(speaker_ids)
        for column, attribute in enumerate(self.attributes):
            trained = int(np.count_nonzero(self.bank.count[:, self.bank.attributes.index(attribute)]))
            labelled = [rows for rows in rows_of.values() if not np.isnan(given[rows, column]).all()]
            if min(trained, len(labelled)) < MIN_SPEAKERS:
                what = f"{trained} training and {len(labelled)} validation speakers have labels of {attribute}"
                remedy = f"Give {MIN_SPEAKERS} of each; with fewer, use one global affine map (AffineMap)"
                raise UserError(what, where="PosteriorCalibrator", remedy=remedy)
            rows = np.sort(np.concatenate(labelled))
            ids = [str(names[row]) for row in rows]
            fitted[attribute] = AttributePosterior.fit(
                self._voices[attribute], predicted[rows, column], ids, vectors[rows], given[rows, column]
            )
        self.fitted = fitted
        return self

    @cached_property
    def _voices(self) -> dict[str, list[Ridge]]:
        """Attribute -> speaker vector -> label mean and log standard deviation, fitted over the bank."""
        voices = {}
        for column, attribute in enumerate(self.bank.attributes):
            rows = self.bank.count[:, column] > 0
            if attribute in self.attributes and rows.sum() >= MIN_SPEAKERS:
                count, std = self.bank.count[rows, column], self.bank.label_std[rows, column]
                estimates = mean_and_log_std(Moments(count, self.bank.label_mean[rows, column], count * std**2))
                voices[attribute] = [fit_ridge(self.bank.vectors[rows], each)[0] for each in estimates]
        return voices

    def calibrate(self, predictions: ArrayLike, speaker_ids: Sequence[str | None], pooled: ArrayLike) -> Calibration:
        """Calibrate, each speaker by the speaker's own utterances in this call.

        The inputs are those of `ser_personal.calibrate`, and so are the errors. A speaker's `mu_bar` and `sigma_bar`
        are the moments of the calibrated predictions. There are no neighbours.

        Raises:
            UserError: not fitted, or as by `ser_personal.calibrate`.
        """
        if not self.fitted:
            remedy = "Call fit(...) with the validation set first"
            raise UserError("not fitted", where="PosteriorCalibrator", remedy=remedy)
        predicted, vectors = as_float64(predictions), as_float64(pooled)
        check_inputs(predicted, speaker_ids, vectors, self.bank, self.attributes)
        posteriors = list(self.fitted.values())
        calibrated = np.column_stack([each.affine.apply(predicted[:, at]) for at, each in enumerate(posteriors)])
        speakers = []
        for speaker, rows in rows_by_speaker(speaker_ids).items():
            own, vector = Moments.of(predicted[rows]), Moments.of(vectors[rows]).mean[None]
            for column, posterior in enumerate(posteriors):
                calibrated[rows, column] = posterior(predicted[rows, column], own[[column]], vector)
            new = Moments.of(calibrated[rows])
            moments = own.mean, own.std, new.mean, new.std
            speakers.append(CalibratedSpeaker(speaker, len(rows), (), np.empty(0), *moments))
        return Calibration(calibrated, self.attributes, tuple(speakers))

    def __call__(self, predictions: Values, speaker_ids: Sequence[str | None], pooled: Values) -> Values:
        """Calibrated predictions, (utterances, attributes)."""
        return self.calibrate(predictions, speaker_ids, pooled).predictions


Fitted = dict[str, AttributePosterior]


def save_posterior(fitted: Fitted, path: Path) -> None:
    """Write `PosteriorCalibrator.fitted` as JSON."""
    content = {"attributes": {attribute: asdict(posterior) for attribute, posterior in fitted.items()}}
    atomic_write(path, f"{json.dumps(content, allow_nan=False, default=np.ndarray.tolist)}\n".encode())


def load_posterior(path: Path) -> Fitted:
    """Read a file of `save_posterior`."""

    def affine(fields: dict[str, Any]) -> AffineMap:
        return AffineMap(np.array(fields["slope"]), np.array(fields["intercept"]))

    def correction(fields: dict[str, Any]) -> Correction:
        voice, regression = (Ridge(np.array(fields[name][0]), fields[name][1]) for name in ("voice", "regression"))
        own, expected = (Shrinkage(*fields[name]) for name in ("own", "expected"))
        return Correction(voice, own, expected, regression, tuple(fields["limits"]), fields["amount"])

    return {
        attribute: AttributePosterior(
            affine(fields["affine"]),
            correction(fields["mean"]),
            correction(fields["log_std"]),
            affine(fields["rematch"]),
        )
        for attribute, fields in json.loads(path.read_text(encoding="utf-8"))["attributes"].items()
    }
