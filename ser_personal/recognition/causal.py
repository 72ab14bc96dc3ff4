"""Causal calibration: each utterance by what its speaker has said so far, itself included."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ser_personal.calibration.controls import AffineMap
from ser_personal.calibration.few_labels import LabelPrior, with_labels
from ser_personal.calibration.neighbours import nearest_rows, normalised
from ser_personal.calibration.pldc import PLDCSettings, label_statistics, match_moments
from ser_personal.calibration.posterior import AttributePosterior, PosteriorCalibrator
from ser_personal.calibration.table import PredictedSet
from ser_personal.errors import UserError, require_one_of
from ser_personal.recognition.bundle import Bundle, CalibrationName
from ser_personal.recognition.profiles import SpeakerProfile
from ser_personal.scores import Moments, Values, rows_by_speaker
from ser_personal.speakers.bank import SpeakerBank

FOLDS = 10

# prediction (attributes,), label points, and the profile of all that its speaker has said, this utterance included
# -> the calibrated prediction, (attributes,)
CausalCalibrator = Callable[[Values, SpeakerProfile], Values]


def calibrate_causally(calibrator: CausalCalibrator, predicted: PredictedSet) -> tuple[Values, Values]:
    """Predictions of a set (utterances, attributes), each calibrated by what its speaker said so far, and by a line.

    The line is that of all that the speaker says, not clipped: what `with_labels` corrects.
    """
    calibrated, by_line = predicted.predictions.copy(), predicted.predictions.copy()
    for rows in rows_by_speaker(predicted.speaker_ids).values():
        profile = SpeakerProfile.empty(predicted.pooled.shape[1], predicted.predictions.shape[1])
        for row in rows:
            profile = profile.add(predicted.pooled[row], predicted.predictions[row], None, row)
            calibrated[row] = calibrator(predicted.predictions[row], profile)
        by_line[rows] = line_of(calibrator, profile).apply(predicted.predictions[rows])
    return calibrated, by_line


def left_out_posteriors(
    bank: SpeakerBank, attributes: tuple[str, ...], validation: PredictedSet
) -> tuple[Values, Values]:
    """`calibrate_causally` by a posterior fitted on other folds of the set's speakers, all of them known."""
    calibrator = PosteriorCalibrator(bank, attributes)
    calibrated, by_line = np.empty((2, *validation.predictions.shape))
    fold_of = np.unique(np.array(validation.speaker_ids), return_inverse=True)[1] % FOLDS
    for fold in np.unique(fold_of):
        rows = fold_of == fold
        others = validation.part(~rows)
        calibrator.fit(others.predictions, others.speaker_ids, others.pooled, others.labels)
        causal = CausalPosterior(calibrator.fitted, attributes)
        calibrated[rows], by_line[rows] = calibrate_causally(causal, validation.part(rows))
    return calibrated, by_line


@dataclass(frozen=True, eq=False)
class CausalPLDC:
    r"""PLDC by running sums, from a speaker's first utterance on.

    The standard deviation of two or three predictions is unreliable, and the mean of one is that one. So :math:`\mu`
    and :math:`\sigma^2` of the :math:`n` predictions so far are shrunk towards the neighbours' :math:`\bar\mu` and
    :math:`\bar\sigma^2`, which weigh as much as :math:`\kappa` utterances (ours; `prior_utterances`):

    .. math::

        \mu' = \frac{n \mu + \kappa \bar\mu}{n + \kappa} \qquad
        \sigma'^2 = \frac{n \sigma^2 + \kappa \bar\sigma^2}{n - 1 + \kappa}

    The divisor's :math:`n - 1` makes :math:`\sigma' = \bar\sigma` for :math:`n = 1`, where nothing is scaled; as
    :math:`n` grows this approaches `calibrate`. :math:`\kappa = 0` shrinks nothing: an utterance is then calibrated as
    by `calibrate` over the speaker's utterances so far, :math:`\sigma` with a divisor of :math:`n`.

    `attributes` are the predictions' columns, each one of the bank's.
    """

    bank: SpeakerBank
    attributes: tuple[str, ...]
    settings: PLDCSettings = field(default_factory=PLDCSettings)

    def __call__(self, prediction: Values, profile: SpeakerProfile) -> Values:
        """The calibrated prediction, (attributes,)."""
        settings, own = self.settings, profile.predictions
        columns = [self.bank.attributes.index(attribute) for attribute in self.attributes]
        mu_bar, sigma_bar = label_statistics(self.bank, self.neighbours(profile.vector), columns, settings)
        if imagined := settings.prior_utterances:
            mean = (own.count * own.mean + imagined * mu_bar) / (own.count + imagined)
            own = Moments(own.count - 1 + imagined, mean, own.m2 + imagined * sigma_bar**2)
        return match_moments(prediction, own, mu_bar, sigma_bar, settings, scale=self.bank.scale)

    def neighbours(self, vector: Values) -> NDArray[np.int64]:
        """Rows of the bank speakers with the greatest cosines to a vector (dim,), the nearest first."""
        origin, vectors = self._normalised_bank
        return nearest_rows(normalised(vector - origin), vectors, self.settings.k).rows

    @cached_property
    def _normalised_bank(self) -> tuple[Values, Values]:
        origin = self.settings.center * self.bank.vectors.mean(axis=0)
        return origin, normalised(self.bank.vectors - origin)


@dataclass(frozen=True, eq=False)
class CausalPosterior:
    """The posterior by running sums: an utterance comes out as by `PosteriorCalibrator` of it and those before it."""

    fitted: Mapping[str, AttributePosterior]
    attributes: tuple[str, ...]

    def __call__(self, prediction: Values, profile: SpeakerProfile) -> Values:
        """The calibrated prediction, (attributes,)."""
        calibrated, own = prediction.copy(), profile.predictions
        for column, attribute in enumerate(self.attributes):
            at = [column]
            calibrated[at] = self.fitted[attribute](prediction[at], own[at], profile.vector[None])
        return calibrated


@dataclass(frozen=True, eq=False)
class CausalLabels:
    """Corrects a calibration, `base`, by the labels in a speaker's profile; without labels, it is that calibration.

    The base is an affine map for each speaker and attribute, None where predictions are raw.
    """

    base: CausalCalibrator | None
    priors: tuple[LabelPrior, ...]

    def __call__(self, prediction: Values, profile: SpeakerProfile) -> Values:
        """The calibrated prediction, (attributes,)."""
        calibrated = prediction if self.base is None else self.base(prediction, profile)
        if not profile.labelled.count.any():
            return calibrated
        line = line_of(self.base, profile)
        corrected = with_labels(line, profile.predictions, profile.labelled, self.priors).apply(prediction)
        if isinstance(self.base, CausalPLDC) and self.base.settings.clip:
            corrected = corrected.clip(*self.base.bank.scale)
        return np.where(profile.labelled.count[1] > 0, corrected, calibrated)


def line_of(calibrator: CausalCalibrator | None, profile: SpeakerProfile) -> AffineMap:
    """What a calibration does to any prediction of a speaker, unclipped, found from its values at two points."""
    if isinstance(calibrator, CausalPLDC) and calibrator.settings.clip:
        calibrator = replace(calibrator, settings=replace(calibrator.settings, clip=False))
    low, high = profile.predictions.mean - 0.5, profile.predictions.mean + 0.5
    at_low, at_high = (low, high) if calibrator is None else (calibrator(low, profile), calibrator(high, profile))
    return AffineMap(at_high - at_low, at_low - (at_high - at_low) * low)


def make_calibrator(bundle: Bundle, name: CalibrationName, pldc: PLDCSettings | None = None) -> CausalCalibrator | None:
    """Make a calibrator of a bundle, with its settings of PLDC if None; `none` is None."""
    require_one_of("calibration", name, CalibrationName)
    if name == "none":
        return None
    if bundle.emotions:
        what = "predicts emotions, and only attributes are calibrated"
        raise UserError(what, where="the bundle", remedy="Leave --calibration and --pldc out")
    if name == "posterior":
        if bundle.posterior is None:
            remedy = "Export it with --corpus, whose validation speakers it is fitted on, or give --calibration pldc"
            raise UserError("holds no posterior", where="the bundle", remedy=remedy)
        return CausalPosterior(bundle.posterior, bundle.attributes)
    if bundle.bank is None:
        remedy = "Export it after `ser test` with configs/pldc.yaml, or leave predictions raw by --calibration none"
        raise UserError("holds no speaker bank", where="the bundle", remedy=remedy)
    return CausalPLDC(bundle.bank, bundle.attributes, pldc or bundle.pldc)
