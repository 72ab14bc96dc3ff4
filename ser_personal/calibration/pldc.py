"""PLDC: a test speaker's predictions take on the label distribution of the training speakers who sound alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ser_personal.calibration.equation import PredictionMoments, Statistics, label_statistics, take_on
from ser_personal.calibration.inputs import check_inputs
from ser_personal.calibration.neighbours import nearest_speakers
from ser_personal.errors import UserError
from ser_personal.finetune.scores import rows_by_speaker
from ser_personal.speakers.bank import as_float64

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import ArrayLike, NDArray
    from torch import Tensor

    from ser_personal.calibration.neighbours import Neighbours
    from ser_personal.speakers.bank import SpeakerBank


@dataclass(frozen=True, eq=False)
class CalibratedSpeaker:
    """How one test speaker was calibrated.

    Attributes:
        speaker_id: the test speaker.
        utterances: of the speaker, in this call.
        neighbours: (k,), training speakers, the nearest first.
        cosines: (k,), of each neighbour.
        mu: (attributes,), label points, mean of the speaker's own predictions.
        sigma: (attributes,), label points, population deviation of the speaker's own predictions.
        mu_bar: (attributes,), label points, the neighbours' mean; NaN where none of them has a label.
        sigma_bar: (attributes,), label points, the neighbours' deviation; NaN where none of them has a label.
    """

    speaker_id: str
    utterances: int
    neighbours: tuple[str, ...]
    cosines: NDArray[np.float64]
    mu: NDArray[np.float64]
    sigma: NDArray[np.float64]
    mu_bar: NDArray[np.float64]
    sigma_bar: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Calibration:
    """Calibrated predictions and how they came about.

    Attributes:
        predictions: (utterances, attributes), label points; an unknown speaker's are the raw ones.
        attributes: names of the columns.
        speakers: one a known test speaker, sorted by id.
    """

    predictions: NDArray[np.float64]
    attributes: tuple[str, ...]
    speakers: tuple[CalibratedSpeaker, ...]


def calibrate(
    predictions: ArrayLike | Tensor,
    speaker_ids: Sequence[str | None],
    pooled: ArrayLike | Tensor,
    bank: SpeakerBank,
    *,
    attributes: Sequence[str] | None = None,
    k: int = 15,
    shift_mean: bool = False,
    scale_std: bool = True,
    statistics: Statistics = "average",
    center: bool = False,
    clip: bool = False,
) -> Calibration:
    r"""Personalised label distribution calibration (paper, PLDC): needs no label of any test speaker.

    A test speaker's vector is the mean of `pooled` over the speaker's utterances in this call. The label statistics of
    the k training speakers with the greatest cosine to it replace those of the speaker's own predictions:

    .. math::

        \tilde y = \frac{y - \mu}{\sigma} \bar\sigma + \bar\mu

    with :math:`\mu, \sigma` the mean and population deviation of the speaker's predictions in this call, and
    :math:`\bar\mu, \bar\sigma` the neighbours'. `scale_std` alone keeps :math:`\mu` in place of :math:`\bar\mu` (the
    sigma shift); `shift_mean` alone keeps :math:`\sigma` in place of :math:`\bar\sigma` (the mu shift).

    The default is the sigma shift, which the paper found best: it raises A-CCC (arousal .531 to .541, valence .569 to
    .578). The full equation is `shift_mean=True, scale_std=True`. Every variant lowers O-CCC in the paper (arousal .740
    to .732 by sigma, .722 by mu, .713 by both).

    Where the equation says nothing (all ours):

    - One utterance, or predictions alike up to float32 rounding (deviation within 1e-6 of their greatest magnitude):
      there is nothing to scale, the deviation stays; the mean is shifted if `shift_mean`.
    - A neighbour without labels of an attribute is left out for it; where none has labels, the raw predictions stay.
    - An unknown speaker (None) keeps the raw predictions, unclipped.
    - A test speaker who is in the bank, under the same id, may be found as a neighbour like any other, usually the
      nearest: the labels in the bank are training labels, known for a speaker in the `labelled` condition. `neighbours`
      shows it. Where ids of two corpora coincide by chance, rename them first.
    - A vector of zeros has cosine 0 to every speaker. Equal cosines are ordered by speaker id.

    Args:
        predictions: (utterances, attributes), label points, array or tensor.
        speaker_ids: (utterances,), None where unknown.
        pooled: (utterances, dim), array or tensor, by the model that made the bank.
        bank: the training speakers.
        attributes: names of the predictions' columns, each one of the bank's; None means the bank's own, in its order.
        k: how many neighbours; more than the bank holds means all (15 in the authors' late script, 5 in the early one).
        shift_mean: replace the mean.
        scale_std: replace the deviation.
        statistics: "average" averages the neighbours' means and deviations (paper); "pooled" takes mean and deviation
            of all their labels together (the authors' late script), so a speaker with more labels weighs more.
        center: subtract the mean of the bank's vectors from both sides before the cosine (ours; mean-pooled vectors
            share a large common part).
        clip: limit calibrated predictions to the bank's label scale (ours).

    Raises:
        UserError: an empty bank, attributes that aren't the bank's, shapes that don't match, k below 1, unknown
            `statistics`, or a NaN or infinity in `predictions` or `pooled`, naming the speaker.
    """
    predicted, vectors = as_float64(predictions), as_float64(pooled)
    attributes = bank.attributes if attributes is None else tuple(attributes)
    check_inputs(predicted, speaker_ids, vectors, bank, attributes)
    if k < 1:
        raise UserError(f"k is {k}", where="PLDC", remedy="Ask for at least one neighbour")
    if statistics not in {"average", "pooled"}:
        raise UserError(f"unknown statistics {statistics!r}", where="PLDC", remedy='Use "average" or "pooled"')
    rows_of = rows_by_speaker(speaker_ids)
    speaker_vectors = [vectors[rows].mean(axis=0) for rows in rows_of.values()]
    nearest = nearest_speakers(np.reshape(speaker_vectors, (-1, bank.vectors.shape[1])), bank, k, center=center)
    return calibrate_towards(
        predicted,
        rows_of,
        dict(zip(rows_of, nearest, strict=True)),
        bank,
        attributes=attributes,
        shift_mean=shift_mean,
        scale_std=scale_std,
        statistics=statistics,
        clip=clip,
    )


def calibrate_towards(
    predictions: NDArray[np.float64],
    rows_of: Mapping[str, NDArray[np.int64]],
    neighbours: Mapping[str, Neighbours],
    bank: SpeakerBank,
    *,
    attributes: tuple[str, ...],
    shift_mean: bool,
    scale_std: bool,
    statistics: Statistics,
    clip: bool,
) -> Calibration:
    """The second half of `calibrate`, towards neighbours already chosen; `rows_of` maps test speaker to utterances."""
    columns = [bank.attributes.index(attribute) for attribute in attributes]
    calibrated = predictions.copy()
    speakers = []
    for speaker_id, rows in rows_of.items():
        own, chosen = predictions[rows], neighbours[speaker_id]
        deviations = own - own[0]  # not own - mean: equal predictions must deviate by exactly 0
        mu, sigma = own[0] + deviations.mean(axis=0), deviations.std(axis=0)
        mu_bar, sigma_bar = label_statistics(bank, chosen.rows, columns, statistics)
        calibrated[rows] = take_on(
            own,
            PredictionMoments(mu, sigma, np.abs(own).max(axis=0)),
            mu_bar,
            sigma_bar,
            shift_mean=shift_mean,
            scale_std=scale_std,
            limits=bank.scale if clip else None,
        )
        speakers.append(
            CalibratedSpeaker(
                speaker_id=speaker_id,
                utterances=len(rows),
                neighbours=tuple(bank.speaker_ids[row] for row in chosen.rows),
                cosines=chosen.cosines,
                mu=mu,
                sigma=sigma,
                mu_bar=mu_bar,
                sigma_bar=sigma_bar,
            )
        )
    return Calibration(calibrated, attributes, tuple(speakers))
