"""Speakers whose voices tell of their labels."""

from __future__ import annotations

import numpy as np

from ser_personal.calibration.table import PredictedSet


def people(prefix: str, num_speakers: int, seed: int, utterances: int = 25) -> PredictedSet:
    """Speakers whose voice tells the mean and deviation of their labels, and a model blind to both."""
    rng = np.random.default_rng(seed)
    speakers = np.repeat(np.arange(num_speakers), utterances)
    voices = rng.normal(size=(num_speakers, 2))
    means, stds = 4 + voices, np.exp(0.5 * voices)
    emotions = rng.normal(size=(len(speakers), 2))
    return PredictedSet(
        predictions=4 + 0.5 * emotions + 0.2 * rng.normal(size=emotions.shape),
        speaker_ids=tuple(f"{prefix} {s:02}" for s in speakers),
        pooled=voices[speakers] + 0.1 * rng.normal(size=emotions.shape),
        labels=means[speakers] + stds[speakers] * emotions,
    )
