"""Speaker features: a vector per speaker, from any tool, that batches carry to the model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from ser_personal.corpus.splits import grouped
from ser_personal.corpus.table import read_vectors
from ser_personal.data.frame_store import FeatureCache
from ser_personal.errors import UserError, counted, require_one_of
from ser_personal.files import content_hash
from ser_personal.scores import Moments
from ser_personal.types import Utterance

Statistics = Literal["mean", "max", "moments"]
# a column of cached frames that varies less is constant
SMALLEST_STD = 1e-4


@dataclass(frozen=True, eq=False)
class SpeakerFeatures:
    """One vector per speaker."""

    vectors: dict[str, NDArray[np.float32]]  # (feature_dim,), finite
    source: str  # where they come from, for messages

    def of(self, speaker_ids: Sequence[str | None]) -> NDArray[np.float32]:
        """Look up speakers, -> (speakers, feature_dim), NaN for unknown ones (None)."""
        missing = sorted({id_ for id_ in speaker_ids if id_ is not None} - self.vectors.keys())
        if missing:
            others = f" and {counted(len(missing) - 1, 'other')}" if missing[1:] else ""
            remedy = "Make them for every speaker of the corpus, or leave --data.speaker_features out"
            raise UserError(f"no features of speaker {missing[0]}{others}", where=self.source, remedy=remedy)
        nobody = np.full_like(next(iter(self.vectors.values())), np.nan)
        found = [nobody if speaker_id is None else self.vectors[speaker_id] for speaker_id in speaker_ids]
        return np.array(found, dtype=np.float32).reshape(-1, len(nobody))

    def permuted(self) -> SpeakerFeatures:
        """Give every speaker another one's vector, the same each time: a control."""
        ids = sorted(self.vectors)
        order = np.random.default_rng(0).permutation(len(ids))
        others = zip(order, np.roll(order, -1), strict=True)
        moved = {ids[number]: self.vectors[ids[other]] for number, other in others}
        return SpeakerFeatures(moved, f"{self.source}, permuted")

    def fingerprint(self) -> str:
        """Hash of ids and vectors, 32 hex digits."""
        ids = sorted(self.vectors)
        return content_hash(*ids, self.of(ids))


class SpeakerFeatureSource(ABC):
    """Where speaker features come from."""

    @abstractmethod
    def read(self, utterances: Sequence[Utterance]) -> SpeakerFeatures:
        """Read, or compute, the features of the utterances' speakers, labels unseen."""


class SpeakerVectorFile(SpeakerFeatureSource):
    """Vectors from any tool.

    A table with a column `speaker` and one per dimension, or an .npz or .safetensors file with an array per speaker.

    Args:
        path: the file.
    """

    def __init__(self, path: str) -> None:
        self.path = path

    @override
    def read(self, utterances: Sequence[Utterance]) -> SpeakerFeatures:
        read = read_vectors(Path(self.path), of="speaker")
        vectors = {speaker_id: vector.astype(np.float32) for speaker_id, vector in read.items()}
        for speaker_id, vector in vectors.items():
            if not np.isfinite(vector).all():
                what = f"a value of speaker {speaker_id} isn't a finite number"
                raise UserError(what, where=self.path, remedy="Correct it, or leave the speaker out")
        return SpeakerFeatures(vectors, self.path)


def frame_moments(cache: FeatureCache, utterance_ids: Iterable[str]) -> Moments:
    """Moments (dim,) over all frames of some utterances, at least one."""
    return reduce(Moments.merge, (Moments.of(cache[utterance_id]) for utterance_id in utterance_ids))


@dataclass(frozen=True, eq=False)
class SpeakerNormalization:
    """Each speaker's own moments; those of the training set, if there is one, for unknown speakers."""

    moments_of: dict[str, Moments]  # (dim,), over all cached utterances of a speaker, labelled or not
    training: Moments | None  # (dim,), over the training utterances

    @classmethod
    def of(cls, cache: FeatureCache, utterances: Sequence[Utterance], training_ids: Sequence[str]) -> Self:
        """Compute the moments of every known speaker's frames, labels unseen."""
        moments_of = {speaker: frame_moments(cache, ids) for speaker, ids in by_speaker(cache, utterances).items()}
        return cls(moments_of, frame_moments(cache, training_ids) if training_ids else None)

    def normalize(self, frames: NDArray[np.floating], speaker_id: str | None) -> NDArray[np.float16]:
        """Bring frames (frames, dim) to zero mean and unit variance; a constant column to 0."""
        moments = self.training if speaker_id is None else self.moments_of[speaker_id]
        if moments is None:
            what, remedy = "no training set to normalise unknown speakers by", "Give data.known_speakers_only=true"
            raise UserError(what, where="data.normalize_speakers", remedy=remedy)
        scale = np.where(moments.std > SMALLEST_STD, moments.std, np.inf)
        return ((frames - moments.mean) / scale).astype(np.float16)


def by_speaker(cache: FeatureCache, utterances: Sequence[Utterance]) -> dict[str, list[str]]:
    """Group cached utterances by known speaker."""
    cached = (each for each in utterances if each.utterance_id in cache)
    return grouped((each.speaker_id, each.utterance_id) for each in cached if each.speaker_id is not None)


class CachedSpeakerFeatures(SpeakerFeatureSource):
    """Statistics of each speaker's cached frames, over all that is cached of them, labels unseen.

    Args:
        cache: the folder that `ser cache` wrote, or another tool; it needn't be the one that is trained on.
        statistics: `mean` or `max` over the speaker's utterances of their mean frames, or `moments`: mean and
            standard deviation over all frames, twice the width (MFCC moments, say, of a cache of MFCC).
    """

    def __init__(self, cache: str, statistics: Statistics = "mean") -> None:
        require_one_of("statistics", statistics, Statistics)
        self.cache, self.statistics = cache, statistics

    @override
    def read(self, utterances: Sequence[Utterance]) -> SpeakerFeatures:
        cache = FeatureCache.load(self.cache)
        ids_of = by_speaker(cache, utterances)
        if not ids_of:
            remedy = "Give the cache that was made of this corpus"
            raise UserError("holds no utterance of a known speaker of this corpus", where=self.cache, remedy=remedy)
        vectors = {speaker: self._vector(cache, ids) for speaker, ids in ids_of.items()}
        return SpeakerFeatures(vectors, f"{self.statistics} of {self.cache}")

    def _vector(self, cache: FeatureCache, utterance_ids: Sequence[str]) -> NDArray[np.float32]:
        if self.statistics == "moments":
            moments = frame_moments(cache, utterance_ids)
            return np.concatenate([moments.mean, moments.std]).astype(np.float32)
        means = np.stack([cache[utterance_id].astype(np.float32).mean(0) for utterance_id in utterance_ids])
        vector: NDArray[np.float32] = means.mean(0) if self.statistics == "mean" else means.max(0)
        return vector


class ConcatFeatures(SpeakerFeatureSource):
    """Several sources' vectors joined, of the speakers of the first, such as raw statistics and learnt features.

    Args:
        sources: at least one.
    """

    def __init__(self, sources: list[SpeakerFeatureSource]) -> None:
        if not sources:
            raise UserError("no sources", where="--data.speaker_features ConcatFeatures", remedy="Name at least one")
        self.sources = sources

    @override
    def read(self, utterances: Sequence[Utterance]) -> SpeakerFeatures:
        read = [source.read(utterances) for source in self.sources]
        ids = sorted(read[0].vectors)
        joined = np.concatenate([features.of(ids) for features in read], axis=1)
        return SpeakerFeatures(dict(zip(ids, joined, strict=True)), " and ".join(each.source for each in read))
