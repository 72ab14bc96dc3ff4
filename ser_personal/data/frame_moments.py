"""Mean and deviation of cached frames, of everyone or by speaker."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from ser_personal.data.feature_cache import FeatureCache
    from ser_personal.types import Utterance

_SMALLEST_STD = 1e-4


@dataclass(frozen=True, eq=False)
class FrameMoments:
    """Mean and population deviation of some frames.

    Attributes:
        mean: (dim,).
        std: (dim,).
    """

    mean: NDArray[np.float32]
    std: NDArray[np.float32]

    @classmethod
    def of(cls, cache: FeatureCache, utterance_ids: Iterable[str]) -> Self:
        """Go through the frames of some utterances, at least one."""
        count = 0
        total = np.zeros(cache.source.dim)
        squares = np.zeros(cache.source.dim)
        for utterance_id in utterance_ids:
            frames = cache[utterance_id].astype(np.float64)
            count += len(frames)
            total += frames.sum(0)
            squares += np.square(frames).sum(0)
        mean = total / count
        std = np.sqrt(np.maximum(squares / count - mean**2, 0))
        return cls(mean.astype(np.float32), std.astype(np.float32))

    def normalize(self, frames: NDArray[np.floating]) -> NDArray[np.float16]:
        """Bring frames (frames, dim) to zero mean and unit variance; a constant column to 0."""
        scale = np.where(self.std > _SMALLEST_STD, self.std, np.inf)
        return ((frames - self.mean) / scale).astype(np.float16)


@dataclass(frozen=True, eq=False)
class SpeakerNormalization:
    """Each speaker's own moments; those of the training set for unknown speakers.

    Attributes:
        moments_of: speaker -> moments over all cached utterances of theirs, labelled or not.
        training: moments over the training utterances.
    """

    moments_of: dict[str, FrameMoments]
    training: FrameMoments

    @classmethod
    def of(cls, cache: FeatureCache, utterances: Sequence[Utterance], training: Sequence[Utterance]) -> Self:
        """Take the moments of everyone who speaks in some utterances; nobody's labels are looked at."""
        moments_of = {speaker: FrameMoments.of(cache, ids) for speaker, ids in by_speaker(cache, utterances).items()}
        return cls(moments_of, FrameMoments.of(cache, [utterance.utterance_id for utterance in training]))

    def normalize(self, frames: NDArray[np.floating], speaker_id: str | None) -> NDArray[np.float16]:
        """Normalise an utterance's frames (frames, dim)."""
        moments = self.training if speaker_id is None else self.moments_of[speaker_id]
        return moments.normalize(frames)


def by_speaker(cache: FeatureCache, utterances: Sequence[Utterance]) -> dict[str, list[str]]:
    """Known speakers -> their cached utterances."""
    ids_of: dict[str, list[str]] = defaultdict(list)
    for utterance in utterances:
        if utterance.speaker_id is not None and utterance.utterance_id in cache:
            ids_of[utterance.speaker_id].append(utterance.utterance_id)
    return dict(ids_of)
