"""Which calibration a bundle comes with: the one that serves its validation speakers best, heard one by one (ours)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ser_personal.calibration.posterior import PosteriorCalibrator
from ser_personal.calibration.selection import MIN_SPEAKERS, PRICE, labelled_speakers
from ser_personal.finetune.scores import rows_by_speaker, score
from ser_personal.recognition.causal import CausalPLDC, calibrate_in_turn
from ser_personal.recognition.causal_posterior import CausalPosterior
from ser_personal.recognition.profiles import SpeakerProfile

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from ser_personal.calibration.posterior_file import Fitted
    from ser_personal.calibration.table import PredictedSet
    from ser_personal.recognition.bundle import Bundle, CalibrationName
    from ser_personal.recognition.causal import CausalCalibrator
    from ser_personal.speakers.bank import SpeakerBank

FOLDS = 10

Candidates = dict["CalibrationName", "NDArray[np.float64]"]


def fit_posterior(bank: SpeakerBank, attributes: tuple[str, ...], heard: PredictedSet) -> Fitted:
    """Fit on all validation speakers.

    Raises:
        UserError: as by `PosteriorCalibrator.fit`.
    """
    calibrator = PosteriorCalibrator(bank, attributes)
    return calibrator.fit(heard.predictions, heard.speaker_ids, heard.pooled, heard.labels).fitted


def candidates(bundle: Bundle, bank: SpeakerBank | None, heard: PredictedSet) -> Candidates:
    """The validation set by each calibration that there is, each utterance by what its speaker has said so far.

    The posterior of a speaker is fitted without the speaker. It is no candidate where speakers are too few for that.

    Args:
        bundle: its bank and its settings of PLDC.
        bank: of single training speakers, which the posterior learns from.
        heard: the validation set, raw.
    """
    found: Candidates = {"none": heard.predictions}
    if bundle.bank is not None:
        found["pldc"] = causally(CausalPLDC(bundle.bank, bundle.attributes, bundle.pldc), heard)
    if bank is not None and can_leave_out(bank, bundle.attributes, heard):
        found["posterior"] = by_left_out_posteriors(bank, bundle.attributes, heard)
    return found


def can_leave_out(bank: SpeakerBank, attributes: tuple[str, ...], heard: PredictedSet) -> bool:
    """Whether enough validation speakers are left for the posterior wherever some are left out."""
    columns = [bank.attributes.index(attribute) for attribute in attributes]
    return bool((bank.count[:, columns] > 0).any(axis=0).all()) and all(
        min(map(len, labelled_speakers(others.speaker_ids, others.labels))) >= MIN_SPEAKERS
        for others in (heard.part(~rows) for rows in _folds(heard))
    )


def best(
    candidates: Mapping[CalibrationName, NDArray[np.float64]], heard: PredictedSet, names: tuple[str, ...]
) -> CalibrationName:
    """The candidate that gains most over raw predictions in O-CCC and A-CCC together, `none` where none gains.

    Both are means over the attributes, neither may fall, and a gain of less than `PRICE` is none.
    """
    of_raw = mean_scores(candidates["none"], heard, names)
    chosen: CalibrationName = "none"
    greatest = PRICE
    for name, predictions in candidates.items():
        gain = np.nan_to_num(mean_scores(predictions, heard, names) - of_raw)
        if gain.sum() > greatest and (gain >= 0).all():
            chosen, greatest = name, float(gain.sum())
    return chosen


def mean_scores(
    predictions: NDArray[np.float64], heard: PredictedSet, attributes: tuple[str, ...]
) -> NDArray[np.float64]:
    """O-CCC and A-CCC, means over the attributes; NaN where undefined for one."""
    scores = score(predictions, heard.labels, heard.speaker_ids, attributes).values()
    means: NDArray[np.float64] = np.array([[one.overall_ccc, one.average_ccc] for one in scores]).mean(axis=0)
    return means


def causally(calibrator: CausalCalibrator, heard: PredictedSet) -> NDArray[np.float64]:
    """Calibrated predictions of a set, (utterances, attributes), in the order of its rows; all speakers are known."""
    calibrated = np.empty_like(heard.predictions)
    for rows in rows_by_speaker(heard.speaker_ids).values():
        nothing = SpeakerProfile.empty(heard.pooled.shape[1], heard.predictions.shape[1])
        calibrated[rows] = calibrate_in_turn(
            calibrator, heard.predictions[rows], heard.pooled[rows], nothing
        ).predictions
    return calibrated


def by_left_out_posteriors(bank: SpeakerBank, attributes: tuple[str, ...], heard: PredictedSet) -> NDArray[np.float64]:
    """The set causally by the posterior, (utterances, attributes), each speaker by one fitted without the speaker."""
    calibrator = PosteriorCalibrator(bank, attributes)
    calibrated = np.empty_like(heard.predictions)
    for rows in _folds(heard):
        others = heard.part(~rows)
        calibrator.fit(others.predictions, others.speaker_ids, others.pooled, others.labels)
        calibrated[rows] = causally(CausalPosterior(calibrator.fitted, attributes), heard.part(rows))
    return calibrated


def _folds(heard: PredictedSet) -> Iterator[NDArray[np.bool_]]:
    """Masks (utterances,) that hold each speaker once, a speaker a fold where they are few."""
    speakers = list(rows_by_speaker(heard.speaker_ids))
    folds = min(FOLDS, len(speakers))
    fold_of = {speaker: number % folds for number, speaker in enumerate(speakers)}
    for fold in range(folds):
        yield np.array([speaker is not None and fold_of[speaker] == fold for speaker in heard.speaker_ids])
