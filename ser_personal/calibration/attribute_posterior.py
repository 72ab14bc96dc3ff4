"""One attribute's share of `PosteriorCalibrator`: what is fitted on validation speakers, and what it does."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, NamedTuple, Self

import numpy as np

from ser_personal.calibration.controls import AffineMap
from ser_personal.calibration.correction import Correction, Estimate, FittedCorrection
from ser_personal.calibration.measured import measured_log_std, measured_mean
from ser_personal.calibration.selection import choose
from ser_personal.calibration.spoken import Spoken, spoken, spoken_by
from ser_personal.finetune.scores import rows_by_speaker

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from ser_personal.calibration.voice import VoiceEstimate


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
