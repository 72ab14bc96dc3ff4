"""Utterance -> example -> batch: a part of its audio, or cached frames, with labels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from ser_personal.audio import BAD_AUDIO, HOP, decode_utterance, num_frames, part_of
from ser_personal.errors import UserError
from ser_personal.types import ATTRIBUTES, NO_PSEUDO_LABEL

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from ser_personal.data.augmentation import Augmentation
    from ser_personal.data.frame_store import FeatureCache, PseudoLabels
    from ser_personal.data.resumable_loader import ExampleKey
    from ser_personal.data.speaker_features import SpeakerFeatures, SpeakerNormalization
    from ser_personal.types import Utterance


# an example's array -> a batch's names of it and of its lengths, and what pads it
PADDED: dict[str, tuple[str, str | None, int]] = {
    "waveform": ("waveforms", "num_samples", 0),
    "features": ("features", "num_frames", 0),
    "pseudo_labels": ("pseudo_labels", None, NO_PSEUDO_LABEL),
}


@dataclass(frozen=True)
class Example:
    """One utterance and what a batch holds of it."""

    index: int  # its position in the datamodule's `utterances`
    speaker_id: str | None  # None where unknown
    waveform: NDArray[np.float32] | None = None  # (samples,) at 16 kHz, all of it or a part
    features: NDArray[np.float16] | None = None  # (frames, dim), cached, in place of audio
    pseudo_labels: NDArray[np.int64] | None = None  # (frames,), k-means ids
    labels: NDArray[np.float32] | None = None  # (attributes,) in the order of `ATTRIBUTES`, NaN where missing
    emotion: str | None = None  # categorical, None when there is none


@dataclass(eq=False)
class UtteranceDataset(Dataset[Example], ABC):
    """The datamodule's utterances, by position."""

    utterances: Sequence[Utterance]

    @abstractmethod
    def __getitem__(self, key: ExampleKey) -> Example: ...

    def __getitems__(self, keys: Sequence[ExampleKey]) -> list[Example] | UserError:
        try:
            return [self[key] for key in keys]
        except UserError as error:
            # torch would turn an exception raised in a worker into text
            return error


@dataclass(eq=False)
class PretrainDataset(UtteranceDataset):
    """Random crops of at most `max_samples` and their pseudo-labels."""

    pseudo_labels: PseudoLabels
    max_samples: int = 250_000
    seed: int = 0

    def __getitem__(self, key: ExampleKey) -> Example:
        utterance = self.utterances[key.index]
        start = crop_start(utterance, self.max_samples, seed=self.seed, epoch=key.epoch or 0)
        waveform = decode_part(utterance, start, min(samples_of(utterance), self.max_samples))
        first = start // HOP
        ids = self.pseudo_labels[utterance.utterance_id][first : first + num_frames(len(waveform))]
        return Example(key.index, utterance.speaker_id, waveform, pseudo_labels=ids.astype(np.int64))


@dataclass(eq=False)
class WholeUtterances(UtteranceDataset):
    """Utterances cut to their last `max_samples` (the authors' code), in training augmented if asked, with labels."""

    max_samples: int
    augmentation: Augmentation | None = None
    seed: int = 0

    def __getitem__(self, key: ExampleKey) -> Example:
        utterance = self.utterances[key.index]
        total = samples_of(utterance)
        size = min(total, self.max_samples)
        waveform = decode_part(utterance, total - size, size)
        if self.augmentation is not None and key.epoch is not None:
            rng = np.random.default_rng(utterance_draw(utterance, seed=self.seed, epoch=key.epoch))
            waveform = self.augmentation(waveform, rng)[-self.max_samples :]
        return Example(key.index, utterance.speaker_id, waveform, **annotations_of(utterance))


@dataclass(eq=False)
class CachedDataset(UtteranceDataset):
    """Frames from a cache, normalised by speaker where `normalization` is given."""

    cache: FeatureCache
    normalization: SpeakerNormalization | None = None

    def __getitem__(self, key: ExampleKey) -> Example:
        utterance = self.utterances[key.index]
        frames = self.cache[utterance.utterance_id]
        if self.normalization is not None:
            frames = self.normalization.normalize(frames, utterance.speaker_id)
        return Example(key.index, utterance.speaker_id, features=frames, **annotations_of(utterance))


def annotations_of(utterance: Utterance) -> dict[str, Any]:
    """What an example holds of an utterance's annotations."""
    labels = np.array([utterance.labels.get(attribute, np.nan) for attribute in ATTRIBUTES], dtype=np.float32)
    return {"labels": labels, "emotion": utterance.emotion}


def samples_of(utterance: Utterance) -> int:
    """Count the samples at 16 kHz by the audio's header, 0 where it couldn't be read."""
    return 0 if np.isnan(utterance.seconds) else len(part_of(utterance))


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
        what = f"audio ends {num_samples - len(waveform)} samples before its header says"
        raise UserError(what, where=utterance.path, remedy=BAD_AUDIO)
    return waveform


def collate(
    examples: Sequence[Example] | UserError,
    *,
    speaker_features: SpeakerFeatures | None = None,
    weights: Mapping[str, float] | None = None,
) -> Any:
    """Make a padded batch of one dataset's examples, or hand on its error; speakers not in `weights` have weight 1.

    fairseq crops a pre-training batch to its shortest utterance instead, which wastes audio.
    """
    if isinstance(examples, UserError):
        return examples
    speaker_ids = [example.speaker_id for example in examples]
    batch: dict[str, Any] = {"speaker_ids": speaker_ids, "indices": torch.tensor([each.index for each in examples])}
    for name, (padded, lengths, padding) in PADDED.items():
        arrays = [torch.from_numpy(array) for each in examples if (array := getattr(each, name)) is not None]
        if arrays:
            batch[padded] = pad_sequence(arrays, batch_first=True, padding_value=padding)
        if arrays and lengths:
            batch[lengths] = torch.tensor([len(array) for array in arrays])
    labels = [torch.from_numpy(example.labels) for example in examples if example.labels is not None]
    if labels:
        batch |= {"labels": torch.stack(labels), "emotions": [example.emotion for example in examples]}
    if speaker_features is not None:
        batch["speaker_features"] = torch.from_numpy(speaker_features.of(speaker_ids))
    if weights:
        batch["weights"] = torch.tensor([weights.get(speaker or "", 1.0) for speaker in speaker_ids])
    return batch
