"""`PosteriorCalibrator`: calibrates by what voice and predictions together tell of a speaker's labels (ours)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

import numpy as np

from ser_personal.calibration.attribute_posterior import AttributePosterior, map_column
from ser_personal.calibration.inputs import check_inputs
from ser_personal.calibration.pldc import CalibratedSpeaker, Calibration
from ser_personal.calibration.selection import PRICE, check_labels, labelled_speakers
from ser_personal.calibration.spoken import spoken_by
from ser_personal.calibration.voice import VoiceEstimate
from ser_personal.errors import UserError
from ser_personal.finetune.scores import rows_by_speaker
from ser_personal.speakers.bank import as_float64

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray
    from torch import Tensor

    from ser_personal.speakers.bank import SpeakerBank


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
