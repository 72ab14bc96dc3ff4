"""PLDC: a test speaker's predictions get the label moments of the training speakers with the nearest vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jsonargparse.typing import PositiveInt
from numpy.typing import ArrayLike, NDArray

from ser_personal.calibration.neighbours import Neighbours, nearest_speakers, speaker_vectors
from ser_personal.errors import UserError, as_names, require_one_of, require_range
from ser_personal.scores import Moments, Values, rows_by_speaker, speaker_names
from ser_personal.speakers.bank import SpeakerBank, as_float64
from ser_personal.types import NonNegativeFinite

Statistics = Literal["average", "pooled"]

PRIOR_UTTERANCES = 5.0
# a standard deviation below this share of the label range is rounding, and the predictions count as constant
FLOAT32_ROUNDING = 1e-6


@dataclass(frozen=True)
class PLDCSettings:
    """The options of PLDC.

    Args:
        k: training speakers, the nearest by cosine, whose label statistics are taken; more than the bank holds means
            all (15 in the later of the authors' two scripts, 5 in the earlier).
        shift_mean: move each speaker's mean prediction to the neighbours' label mean.
        scale_std: scale each speaker's standard deviation to that of the neighbours' labels.
        statistics: "average" averages the neighbours' means and standard deviations (the paper); "pooled" takes those
            of all their labels together (the authors' later script), so that one with more labels weighs more.
        center: subtract the bank's mean vector from both sides before the cosine (ours; mean-pooled vectors share a
            large common part).
        clip: keep calibrated predictions within the label scale (ours); those that stay raw aren't clipped.
        prior_utterances: used by causal calibration alone (`CausalPLDC`): the neighbours' label moments count as that
            many utterances when mixed with the moments of the speaker's utterances so far, so that calibration sets in
            gradually (ours); 0 for no mixing.
        min_labels: labels of an attribute that a neighbour must have to contribute to it (ours). A single label has a
            standard deviation of 0, which lowers the average.
    """

    k: PositiveInt = 15
    shift_mean: bool = False
    scale_std: bool = True
    statistics: Statistics = "average"
    center: bool = False
    clip: bool = False
    prior_utterances: NonNegativeFinite = PRIOR_UTTERANCES
    min_labels: PositiveInt = 1

    def __post_init__(self) -> None:
        require_range("pldc.k", self.k, 1)
        require_range("pldc.min_labels", self.min_labels, 1)
        require_range("pldc.prior_utterances", self.prior_utterances, 0)
        require_one_of("pldc.statistics", self.statistics, Statistics)

    @property
    def variant(self) -> str:
        """The row of the score table: mu, sigma or both, as the paper calls the replaced moments, or raw."""
        names = {(False, False): "raw", (True, False): "mu", (False, True): "sigma", (True, True): "both"}
        return names[self.shift_mean, self.scale_std]


@dataclass(frozen=True, eq=False)
class CalibratedSpeaker:
    """How one test speaker was calibrated.

    Attributes:
        speaker_id: the test speaker.
        utterances: how many the speaker has in this call.
        neighbours: (k or fewer,), training speakers, the nearest first.
        cosines: (k or fewer,), of each neighbour.
        mu: (attributes,), label points, mean of the speaker's own predictions.
        sigma: (attributes,), label points, their standard deviation (ddof 0).
        mu_bar: (attributes,), label points, the mean of the neighbours' labels in PLDC, of the calibrated predictions
            in PosteriorCalibrator; NaN where there is none.
        sigma_bar: (attributes,), label points, the standard deviation, likewise.
    """

    speaker_id: str
    utterances: int
    neighbours: tuple[str, ...]
    cosines: Values
    mu: Values
    sigma: Values
    mu_bar: Values
    sigma_bar: Values


@dataclass(frozen=True, eq=False)
class Calibration:
    """Calibrated predictions, and each speaker's neighbours and moments.

    Attributes:
        predictions: (utterances, attributes), label points; an unknown speaker's are raw, or
            by PosteriorCalibrator affinely mapped where its map helps.
        attributes: names of the columns.
        speakers: one per known test speaker, sorted by id.
    """

    predictions: Values
    attributes: tuple[str, ...]
    speakers: tuple[CalibratedSpeaker, ...]

    def __repr__(self) -> str:
        what = f"{len(self.predictions)} utterances of {len(self.speakers)} speakers"
        return f"{type(self).__name__}({what}: {', '.join(self.attributes)})"


def calibrate(
    predictions: ArrayLike,
    speaker_ids: Sequence[str | None],
    pooled: ArrayLike,
    bank: SpeakerBank,
    *,
    attributes: Sequence[str] | None = None,
    k: int = 15,
    shift_mean: bool = False,
    scale_std: bool = True,
    statistics: Statistics = "average",
    center: bool = False,
    clip: bool = False,
    min_labels: int = 1,
) -> Calibration:
    r"""Personalised label distribution calibration (paper, PLDC): needs no label of any test speaker.

    A test speaker's vector is the mean of `pooled` over the speaker's utterances in this call. The label statistics of
    the k training speakers with the greatest cosine to it replace those of the speaker's own predictions:

    .. math::

        \tilde y = \frac{y - \mu}{\sigma} \bar\sigma + \bar\mu

    with :math:`\mu, \sigma` the mean and standard deviation (ddof 0) of the speaker's predictions in this call,
    and :math:`\bar\mu, \bar\sigma` the neighbours'. `scale_std` alone keeps :math:`\mu` in place of :math:`\bar\mu`
    (the sigma shift); `shift_mean` alone keeps :math:`\sigma` in place of :math:`\bar\sigma` (the mu shift). In the
    code, `match_moments` is the equation.

    The default is the sigma shift, which has the highest A-CCC in the paper. The full equation is `shift_mean=True,
    scale_std=True`. Every variant lowers O-CCC in the paper.

    Where the equation is undefined (all ours):

    - One utterance, or constant predictions (sigma at most a millionth of the label scale, float32 rounding): there is
      nothing to scale, sigma stays; the mean is shifted if `shift_mean`.
    - A neighbour with fewer than `min_labels` labels of an attribute is left out for it; where none has enough, the raw
      predictions stay.
    - An unknown speaker (None) keeps the raw predictions, unclipped.
    - A test speaker who is in the bank may be found as a neighbour like any other, usually the nearest: the labels in
      the bank are training labels, known for a speaker in the `labelled` condition. `neighbours` shows it.
    - A vector of zeros has cosine 0 to every speaker. Equal cosines are ordered by speaker id.

    Args:
        predictions: (utterances, attributes), label points, array or tensor.
        speaker_ids: (utterances,), None where unknown.
        pooled: (utterances, dim), array or tensor, mean-pooled personalised frames, by the model that made the bank.
        bank: the training speakers.
        attributes: names of the predictions' columns, each one of the bank's; None means the bank's own, in its order.
        k: neighbours; this and what follows as in `PLDCSettings`.
        shift_mean: replace the mean.
        scale_std: replace the standard deviation.
        statistics: how the neighbours' label statistics are joined.
        center: subtract the bank's mean vector before the cosines.
        clip: keep calibrated predictions within the bank's label scale.
        min_labels: labels that a neighbour must have.

    Raises:
        UserError: an empty bank, attributes that aren't the bank's, shapes that don't match, k or `min_labels` below 1,
            unknown `statistics`, or a NaN or infinity in `predictions` or `pooled`, naming the speaker.
    """
    settings = PLDCSettings(k, shift_mean, scale_std, statistics, center, clip, min_labels=min_labels)
    pldc = PLDC(bank, bank.attributes if attributes is None else as_names("attributes", attributes), settings)
    return pldc.calibration(as_float64(predictions), speaker_ids, as_float64(pooled))


@dataclass(frozen=True)
class PLDC:
    """`calibrate` with a bank and settings, to be called for any set of predictions."""

    bank: SpeakerBank
    attributes: tuple[str, ...]
    settings: PLDCSettings = PLDCSettings()

    def __call__(self, predictions: Values, speaker_ids: Sequence[str | None], pooled: Values) -> Values:
        """Calibrated predictions, (utterances, attributes)."""
        return self.calibration(predictions, speaker_ids, pooled).predictions

    def calibration(self, predictions: Values, speaker_ids: Sequence[str | None], pooled: Values) -> Calibration:
        """Calibrate, with each speaker's neighbours and moments."""
        check_inputs(predictions, speaker_ids, pooled, self.bank, self.attributes)
        rows_of = rows_by_speaker(speaker_ids)
        vectors = speaker_vectors(pooled, rows_of)
        nearest = nearest_speakers(vectors, self.bank, self.settings.k, center=self.settings.center)
        return self.towards(dict(zip(rows_of, nearest, strict=True)), predictions, rows_of)

    def towards(
        self, neighbours: Mapping[str, Neighbours], predictions: Values, rows_of: Mapping[str, NDArray[np.int64]]
    ) -> Calibration:
        """Calibrate by these neighbours; `rows_of` maps a test speaker to the rows of `predictions`."""
        columns = [self.bank.attributes.index(attribute) for attribute in self.attributes]
        calibrated = predictions.copy()
        speakers = []
        for speaker_id, rows in rows_of.items():
            chosen, own = neighbours[speaker_id], Moments.of(predictions[rows])
            mu_bar, sigma_bar = label_statistics(self.bank, chosen.rows, columns, self.settings)
            calibrated[rows] = match_moments(
                predictions[rows], own, mu_bar, sigma_bar, self.settings, scale=self.bank.scale
            )
            names = tuple(self.bank.speaker_ids[row] for row in chosen.rows)
            speakers.append(
                CalibratedSpeaker(speaker_id, len(rows), names, chosen.cosines, own.mean, own.std, mu_bar, sigma_bar)
            )
        return Calibration(calibrated, self.attributes, tuple(speakers))


def match_moments(
    predictions: Values,
    own: Moments,
    mu_bar: Values,
    sigma_bar: Values,
    settings: PLDCSettings,
    *,
    scale: tuple[float, float],
) -> Values:
    """The equation of `calibrate` for some predictions (..., attributes) of one speaker, which stay raw for a NaN mean.

    `own` are moments (attributes,) of the speaker's predictions, `mu_bar` and `sigma_bar` (attributes,) the new ones.
    """
    low, high = scale
    scalable = settings.scale_std & (own.std > FLOAT32_ROUNDING * (high - low))
    ratio = np.where(scalable, sigma_bar / np.where(scalable, own.std, 1.0), 1.0)
    shifted = (predictions - own.mean) * ratio + (mu_bar if settings.shift_mean else own.mean)
    if settings.clip:
        shifted = shifted.clip(low, high)
    return np.where(np.isnan(mu_bar), predictions, shifted)


def label_statistics(
    bank: SpeakerBank, rows: NDArray[np.int64], columns: Sequence[int], settings: PLDCSettings
) -> tuple[Values, Values]:
    """Mean and standard deviation (attributes,) of the labels of some bank speakers, NaN where none has enough."""
    count = bank.count[rows][:, columns]
    enough = count >= settings.min_labels
    mean, std = (np.where(enough, moment[rows][:, columns], 0.0) for moment in (bank.label_mean, bank.label_std))
    weights = np.where(enough, 1.0 if settings.statistics == "average" else count, 0.0)
    total = np.where(enough.any(axis=0), weights.sum(axis=0), np.nan)
    mu_bar = (weights * mean).sum(axis=0) / total
    if settings.statistics == "average":
        return mu_bar, (weights * std).sum(axis=0) / total
    return mu_bar, np.sqrt((weights * (std**2 + (mean - mu_bar) ** 2)).sum(axis=0) / total)


def check_inputs(
    predictions: Values,
    speaker_ids: Sequence[str | None],
    pooled: Values,
    bank: SpeakerBank,
    attributes: tuple[str, ...],
) -> None:
    """Refuse predictions that a bank can't calibrate."""
    if not bank.speaker_ids:
        remedy = "Build it over training utterances whose speakers are known"
        raise UserError("the bank holds no speaker", where="speaker bank", remedy=remedy)
    if not set(attributes) <= set(bank.attributes):
        what = f"predictions of {', '.join(attributes)}, but label statistics of {', '.join(bank.attributes)}"
        raise UserError(what, where="speaker bank", remedy="Build a bank with the attributes that the model predicts")
    shape, of_pooled = (len(speaker_ids), len(attributes)), (len(speaker_ids), bank.vectors.shape[1])
    if predictions.shape != shape or pooled.shape != of_pooled:
        what = f"predictions {predictions.shape} and pooled {pooled.shape} are not {shape} and {of_pooled}"
        remedy = "Give one row per utterance, pooled by the model that made the bank"
        raise UserError(what, where="calibration", remedy=remedy)
    for name, array in (("prediction", predictions), ("pooled vector", pooled)):
        finite = np.isfinite(array).all(axis=1)
        if not finite.all():
            row = int(np.argmin(finite))
            speaker = speaker_names(speaker_ids)[row]
            where = "an unknown speaker" if speaker is None else f"speaker {speaker}"
            remedy = "Check the speaker's audio files and that the model's weights are finite"
            raise UserError(f"the {name} of utterance {row} holds NaN or infinity", where=where, remedy=remedy)
