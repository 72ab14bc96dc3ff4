"""Intervals of a bundle, measured on the validation speakers as the recogniser will meet new ones."""

from __future__ import annotations

from math import isinf
from typing import TYPE_CHECKING

import numpy as np

from ser_personal.calibration.conformal import ConformalTable, speakers_needed
from ser_personal.data.dataset import samples_of
from ser_personal.errors import UserError
from ser_personal.recognition.recognizer import EmotionRecognizer
from ser_personal.recognition.recordings import Recording

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from rich.console import Console

    from ser_personal.corpus.base import Corpus
    from ser_personal.recognition.bundle import Bundle
    from ser_personal.recognition.profiles import SpeakerProfile


def measure_intervals(bundle: Bundle, corpus: Corpus, coverage: float, console: Console) -> ConformalTable:
    """Predict the validation set, raw and calibrated causally in the order of utterance ids, and fit the table.

    Utterances longer than those of the training are left out: the recogniser would cut them, their labels can't be cut.

    Raises:
        UserError: the corpus has no validation speakers with labels, another label scale than the bank, or unusable
            audio.
    """
    if bundle.scale is not None and corpus.scale != bundle.scale:
        raise UserError(
            f"labels are on a scale of {corpus.scale}, the speaker bank's on {bundle.scale}",
            where="--corpus",
            remedy="Give the corpus that the model was trained on",
        )
    utterances = [
        utterance
        for utterance in corpus.splits.validation
        if utterance.speaker_id is not None
        and samples_of(utterance) <= bundle.max_samples
        and not all(np.isnan(label) for label in utterance.labels.values())
    ]
    if not utterances:
        raise UserError(
            "no labelled validation utterance of a known speaker",
            where="--corpus",
            remedy="Give the corpus that the model was trained on, or leave --corpus out for no intervals",
        )
    recognizer = EmotionRecognizer(bundle)
    recordings = [Recording(str(utterance.path), utterance.path, utterance.speaker_id) for utterance in utterances]
    profiles: dict[str, SpeakerProfile] = {}
    predictions: list[NDArray[np.float64]] = []
    labels: list[list[float]] = []
    speakers: list[str | None] = []
    behind: list[int] = []
    for utterance, outcome in zip(utterances, recognizer.raw(recordings), strict=True):
        if isinstance(outcome, UserError):
            console.print(f"left out of the intervals: {outcome.where}: {outcome.what}", soft_wrap=True)
            continue
        for calibrate in (False, True) if recognizer.calibrator else (False,):
            calibrated = recognizer.calibrated(outcome, profiles, calibrate=calibrate)
            predictions.append(calibrated.predictions[0])
            labels.append([utterance.labels.get(attribute, np.nan) for attribute in bundle.attributes])
            speakers.append(utterance.speaker_id)
            behind += calibrated.behind
    table = ConformalTable.fit(
        np.reshape(predictions, (-1, len(bundle.attributes))),
        np.reshape(labels, (-1, len(bundle.attributes))),
        speakers,
        bundle.attributes,
        utterances=behind,
        coverage=coverage,
    )
    measured = len(set(speakers))
    console.print(f"intervals of {coverage:.0%} measured on {measured} validation speakers", highlight=False)
    if any(isinf(width) for widths in table.attributes.values() for width in widths.half_width):
        console.print(
            f"too few for all of them: some are the whole label scale, as for fewer than {speakers_needed(coverage)}"
            " speakers they must be (--coverage)",
            soft_wrap=True,
            highlight=False,
        )
    return table
