"""Utterance -> example -> batch: a part of its audio, or cached frames, with labels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar, cast

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from ser_personal.audio import BAD_AUDIO, HOP, decode_utterance, num_frames, part_of
from ser_personal.errors import UserError
from ser_personal.types import ATTRIBUTES, NO_PSEUDO_LABEL, PretrainBatch, SpeakerBatch, SpeechBatch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ser_personal.data.batching import ExampleKey
    from ser_personal.data.frame_store import FeatureCache, PseudoLabels
    from ser_personal.data.speaker_features import SpeakerNormalization
    from ser_personal.types import CachedEmotionBatch, EmotionBatch, Utterance


@dataclass(frozen=True)
class UtteranceExample:
    """One utterance, by its position in the datamodule's `utterances`; `speaker_id` is None where unknown."""

    index: int
    speaker_id: str | None


@dataclass(frozen=True)
class SpeechExample(UtteranceExample):
    """Its audio, or a part of it, (samples,) at 16 kHz."""

    waveform: NDArray[np.float32]


@dataclass(frozen=True)
class PretrainExample(SpeechExample):
    """With the k-means id of each frame, (frames,)."""

    pseudo_labels: NDArray[np.int64]


@dataclass(frozen=True)
class EmotionExample(SpeechExample):
    """With labels (attributes,) in the order of `ATTRIBUTES`, NaN where missing, and categorical emotion."""

    labels: NDArray[np.float32]
    emotion: str | None


@dataclass(frozen=True)
class CachedExample(UtteranceExample):
    """An utterance's frames (frames, dim), with the labels of an `EmotionExample`."""

    features: NDArray[np.float16]
    labels: NDArray[np.float32]
    emotion: str | None


class Fault(NamedTuple):
    """A UserError of a loader's worker; torch would make text of its traceback."""

    what: str
    where: object
    remedy: str


Example_co = TypeVar("Example_co", bound=UtteranceExample, covariant=True)


class UtteranceDataset(Dataset[Example_co], ABC, Generic[Example_co]):
    """The datamodule's utterances, by position."""

    def __init__(self, utterances: Sequence[Utterance]) -> None:
        self.utterances = utterances

    @abstractmethod
    def __getitem__(self, key: ExampleKey) -> Example_co: ...

    def __getitems__(self, keys: Sequence[ExampleKey]) -> list[Example_co] | Fault:
        try:
            return [self[key] for key in keys]
        except UserError as error:
            return Fault(error.what, error.where, error.remedy)


class PretrainDataset(UtteranceDataset[PretrainExample]):
    """Random crops of at most `max_samples` and their pseudo-labels."""

    def __init__(
        self, utterances: Sequence[Utterance], pseudo_labels: PseudoLabels, *, max_samples: int = 250_000, seed: int = 0
    ) -> None:
        super().__init__(utterances)
        self.pseudo_labels, self.max_samples, self.seed = pseudo_labels, max_samples, seed

    def __getitem__(self, key: ExampleKey) -> PretrainExample:
        utterance = self.utterances[key.index]
        start = crop_start(utterance, self.max_samples, seed=self.seed, epoch=key.epoch)
        waveform = decode_part(utterance, start, min(samples_of(utterance), self.max_samples))
        first = start // HOP
        ids = self.pseudo_labels[utterance.utterance_id][first : first + num_frames(len(waveform))]
        return PretrainExample(key.index, utterance.speaker_id, waveform, ids.astype(np.int64))


class WholeUtterances(UtteranceDataset[EmotionExample]):
    """Whole utterances and their labels; of a longer one the last `max_samples` (the authors' code)."""

    def __init__(self, utterances: Sequence[Utterance], *, max_samples: int) -> None:
        super().__init__(utterances)
        self.max_samples = max_samples

    def __getitem__(self, key: ExampleKey) -> EmotionExample:
        utterance = self.utterances[key.index]
        total = samples_of(utterance)
        size = min(total, self.max_samples)
        waveform = decode_part(utterance, total - size, size)
        return EmotionExample(key.index, utterance.speaker_id, waveform, labels_of(utterance), utterance.emotion)


class CachedDataset(UtteranceDataset[CachedExample]):
    """Frames from a cache, normalised by speaker where `normalization` is given."""

    def __init__(
        self, utterances: Sequence[Utterance], cache: FeatureCache, normalization: SpeakerNormalization | None = None
    ) -> None:
        super().__init__(utterances)
        self.cache, self.normalization = cache, normalization

    def __getitem__(self, key: ExampleKey) -> CachedExample:
        utterance = self.utterances[key.index]
        frames = self.cache[utterance.utterance_id]
        if self.normalization is not None:
            frames = self.normalization.normalize(frames, utterance.speaker_id)
        return CachedExample(key.index, utterance.speaker_id, frames, labels_of(utterance), utterance.emotion)


def labels_of(utterance: Utterance) -> NDArray[np.float32]:
    """Annotations (attributes,) in the order of `ATTRIBUTES`, NaN where missing."""
    return np.array([utterance.labels.get(attribute, np.nan) for attribute in ATTRIBUTES], dtype=np.float32)


def samples_of(utterance: Utterance) -> int:
    """Count the samples at 16 kHz by the audio's header, 0 where it couldn't be read."""
    if np.isnan(utterance.seconds):
        return 0
    start, stop = part_of(utterance)
    return stop - start


def crop_start(utterance: Utterance, max_samples: int, *, seed: int, epoch: int) -> int:
    """Draw the first sample of an utterance's crop, where a frame starts, so that pseudo-labels slice exactly."""
    starts = max(0, samples_of(utterance) - max_samples) // HOP + 1
    return utterance_draw(utterance, seed=seed, epoch=epoch) % starts * HOP


def utterance_draw(utterance: Utterance, *, seed: int, epoch: int) -> int:
    """Draw a number of 64 bits, a pure function of seed, epoch and utterance: a resumed run draws the same."""
    return int.from_bytes(blake2b(f"{seed}/{epoch}/{utterance.utterance_id}".encode(), digest_size=8).digest())


def decode_part(utterance: Utterance, start: int, num_samples: int) -> NDArray[np.float32]:
    """Decode a part of an utterance's audio."""
    waveform = decode_utterance(utterance, start, num_samples)
    if len(waveform) < num_samples:
        raise UserError(
            f"audio ends {num_samples - len(waveform)} samples before its header says",
            where=utterance.path,
            remedy=BAD_AUDIO,
        )
    return waveform


def check_pseudo_labels(utterances: Sequence[Utterance], pseudo_labels: PseudoLabels) -> None:
    """Refuse pseudo-labels that were not made from these utterances."""
    remedy = "Run `ser kmeans` on this corpus with the same splits, or give the folder it wrote for this corpus"
    missing = [utterance.utterance_id for utterance in utterances if utterance.utterance_id not in pseudo_labels]
    if missing:
        what = f"no pseudo-labels for {len(missing)} of {len(utterances)} utterances, {missing[0]} the first"
        raise UserError(what, where=pseudo_labels.folder, remedy=remedy)
    with_id = {utterance.utterance_id: utterance for utterance in utterances}
    # in the order of the files, which are then opened once
    for utterance in (with_id[utterance_id] for utterance_id in pseudo_labels if utterance_id in with_id):
        ids, frames = pseudo_labels[utterance.utterance_id], num_frames(samples_of(utterance))
        if ids.max(initial=0) >= pseudo_labels.num_clusters:
            what = f"pseudo-labels of {utterance.utterance_id} are damaged: {ids.max()} is no cluster"
            raise UserError(what, where=pseudo_labels.folder, remedy=remedy)
        if len(ids) != frames:
            what = f"{len(ids)} pseudo-labels for the {frames} frames of {utterance.utterance_id}: of another version"
            raise UserError(what, where=pseudo_labels.folder, remedy=remedy)


def _speakers(examples: Sequence[UtteranceExample]) -> SpeakerBatch:
    indices = torch.tensor([example.index for example in examples])
    return SpeakerBatch(speaker_ids=[example.speaker_id for example in examples], indices=indices)


def _annotations(examples: Sequence[EmotionExample | CachedExample]) -> dict[str, Any]:
    labels = torch.stack([torch.from_numpy(example.labels) for example in examples])
    return {"labels": labels, "emotions": [example.emotion for example in examples]}


def collate_speech(examples: Sequence[SpeechExample]) -> SpeechBatch:
    """Pad waveforms with zeros."""
    waveforms = [torch.from_numpy(example.waveform) for example in examples]
    lengths = torch.tensor([len(waveform) for waveform in waveforms])
    return SpeechBatch(**_speakers(examples), waveforms=pad_sequence(waveforms, batch_first=True), num_samples=lengths)


def collate_pretrain(examples: Sequence[PretrainExample]) -> PretrainBatch:
    """Pad crops and their pseudo-labels; fairseq crops a batch to its shortest instead, which wastes audio."""
    pseudo_labels = [torch.from_numpy(example.pseudo_labels) for example in examples]
    padded = pad_sequence(pseudo_labels, batch_first=True, padding_value=NO_PSEUDO_LABEL)
    return PretrainBatch(**collate_speech(examples), pseudo_labels=padded)


def collate_emotion(examples: Sequence[EmotionExample]) -> EmotionBatch:
    """Pad waveforms and stack labels."""
    return cast("EmotionBatch", {**collate_speech(examples), **_annotations(examples)})


def collate_cached(examples: Sequence[CachedExample]) -> CachedEmotionBatch:
    """Pad cached frames, in half precision, and stack labels."""
    features = [torch.from_numpy(example.features) for example in examples]
    lengths = torch.tensor([len(frames) for frames in features])
    frames = {"features": pad_sequence(features, batch_first=True), "num_frames": lengths}
    return cast("CachedEmotionBatch", {**_speakers(examples), **frames, **_annotations(examples)})
