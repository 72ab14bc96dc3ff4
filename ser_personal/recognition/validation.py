"""What a bundle's model says of the validation speakers, heard as the recogniser will hear new ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ser_personal.calibration.table import PredictedSet
from ser_personal.data.dataset import samples_of
from ser_personal.errors import UserError
from ser_personal.recognition.recognizer import EmotionRecognizer
from ser_personal.recognition.recordings import Recording

if TYPE_CHECKING:
    from rich.console import Console

    from ser_personal.corpus.base import Corpus
    from ser_personal.recognition.bundle import Bundle
    from ser_personal.recognition.utterances import Utterances
    from ser_personal.types import Utterance


def predict_validation(bundle: Bundle, corpus: Corpus, console: Console) -> PredictedSet:
    """Raw predictions of the validation set, in the order of utterance ids.

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
    recordings = [Recording(str(utterance.path), utterance.path, utterance.speaker_id) for utterance in utterances]
    heard: list[tuple[Utterance, Utterances]] = []
    for utterance, outcome in zip(utterances, EmotionRecognizer(bundle).raw(recordings), strict=True):
        if isinstance(outcome, UserError):
            console.print(f"left out of the validation: {outcome.where}: {outcome.what}", soft_wrap=True)
            continue
        heard.append((utterance, outcome))
    if not heard:
        raise UserError(
            "no labelled validation utterance of a known speaker",
            where="--corpus",
            remedy="Give the corpus that the model was trained on, or leave --corpus out: no intervals, no posterior",
        )
    return PredictedSet(
        predictions=np.concatenate([outcome.predictions for _, outcome in heard]),
        speaker_ids=tuple(utterance.speaker_id for utterance, _ in heard),
        pooled=np.concatenate([outcome.pooled for _, outcome in heard]),
        labels=np.array(
            [[utterance.labels.get(attribute, np.nan) for attribute in bundle.attributes] for utterance, _ in heard]
        ),
    )
