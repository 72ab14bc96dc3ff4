"""Utterance -> its cached frames and its annotations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ser_personal.data.dataset import UtteranceDataset, UtteranceExample, labels_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ser_personal.data.batching import ExampleKey
    from ser_personal.data.feature_cache import FeatureCache
    from ser_personal.data.frame_moments import SpeakerNormalization
    from ser_personal.types import Utterance


@dataclass(frozen=True)
class CachedExample(UtteranceExample):
    """An utterance's frames with its annotations.

    Attributes:
        features: (frames, dim).
        labels: (attributes,) in the order of `ATTRIBUTES`, NaN where missing.
        emotion: categorical emotion, None where there is none.
    """

    features: NDArray[np.float16]
    labels: NDArray[np.float32]
    emotion: str | None = None


class CachedDataset(UtteranceDataset[CachedExample]):
    """Frames from a cache.

    Args:
        utterances: the datamodule's.
        cache: of all of them that are asked for.
        normalization: by speaker; None leaves frames as they are.
    """

    def __init__(
        self, utterances: Sequence[Utterance], cache: FeatureCache, normalization: SpeakerNormalization | None = None
    ) -> None:
        super().__init__(utterances)
        self.cache, self.normalization = cache, normalization

    def __getitem__(self, key: ExampleKey) -> CachedExample:
        utterance = self.utterances[key.index]
        # a copy: read from disk here, in the loader's process
        frames = np.array(self.cache[utterance.utterance_id])
        if self.normalization is not None:
            frames = self.normalization.normalize(frames, utterance.speaker_id)
        return CachedExample(key.index, utterance.speaker_id, frames, labels_of(utterance), utterance.emotion)
