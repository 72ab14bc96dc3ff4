"""Speaker features without a speaker network: statistics of a speaker's cached frames, and several sources as one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from ser_personal.data.feature_cache import FeatureCache
from ser_personal.data.frame_moments import FrameMoments, by_speaker
from ser_personal.data.speaker_features import SpeakerFeatures, SpeakerFeatureSource
from ser_personal.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ser_personal.types import Utterance


class CacheStatistics(SpeakerFeatureSource):
    """Statistics of each speaker's cached frames, over all that is cached of them, labels unseen.

    Args:
        cache: the folder that `ser cache` wrote, or another tool; it needn't be the one that is trained on.
        statistics: `mean` or `max` over the speaker's utterances of their mean frames, or `moments`: mean and
            deviation over all frames, twice the width (MFCC moments, say, of a cache of MFCC).
    """

    def __init__(self, cache: str, statistics: Literal["mean", "max", "moments"] = "mean") -> None:
        self.cache, self.statistics = cache, statistics

    def read(self, utterances: Sequence[Utterance]) -> SpeakerFeatures:
        """Go through the cache once.

        Raises:
            UserError: it can't be read, or holds nobody of these speakers.
        """
        cache = FeatureCache.load(self.cache)
        ids_of = by_speaker(cache, utterances)
        if not ids_of:
            raise UserError(
                "holds no utterance of a known speaker of this corpus",
                where=self.cache,
                remedy="Give the cache that was made of this corpus",
            )
        speakers = tuple(sorted(ids_of))
        vectors = np.stack([self._vector(cache, ids_of[speaker]) for speaker in speakers])
        return SpeakerFeatures(speakers, vectors.astype(np.float32), f"{self.statistics} of {self.cache}")

    def _vector(self, cache: FeatureCache, utterance_ids: Sequence[str]) -> NDArray[np.float32]:
        if self.statistics == "moments":
            moments = FrameMoments.of(cache, utterance_ids)
            return np.concatenate([moments.mean, moments.std])
        means = np.stack([cache[utterance_id].astype(np.float32).mean(0) for utterance_id in utterance_ids])
        vector: NDArray[np.float32] = means.mean(0) if self.statistics == "mean" else means.max(0)
        return vector


class Beside(SpeakerFeatureSource):
    """Several sources side by side, such as raw statistics beside learnt features.

    Args:
        sources: at least one.

    Raises:
        UserError: there is none.
    """

    def __init__(self, sources: list[SpeakerFeatureSource]) -> None:
        if not sources:
            raise UserError("no sources", where="--data.speaker_features Beside", remedy="Name one at least")
        self.sources = sources

    def read(self, utterances: Sequence[Utterance]) -> SpeakerFeatures:
        """Read all of them, of the speakers that stand in the first.

        Raises:
            UserError: one can't be read, or lacks a speaker of the first.
        """
        read = [source.read(utterances) for source in self.sources]
        speakers = read[0].speaker_ids
        vectors = np.concatenate([features.of(speakers) for features in read], axis=1)
        return SpeakerFeatures(speakers, vectors, " beside ".join(features.source for features in read))
