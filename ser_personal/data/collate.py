"""Examples -> batch: padded at the end, by zeros, and pseudo-labels by -100."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn.utils.rnn import pad_sequence

from ser_personal.types import NO_PSEUDO_LABEL, CachedEmotionBatch, EmotionBatch, PretrainBatch, SpeechBatch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ser_personal.data.cached_dataset import CachedExample
    from ser_personal.data.dataset import EmotionExample, PretrainExample, SpeechExample

# What cross-entropy leaves out.


def collate_speech(examples: Sequence[SpeechExample]) -> SpeechBatch:
    """Pad what every batch holds."""
    waveforms = [torch.from_numpy(example.waveform) for example in examples]
    return SpeechBatch(
        waveforms=pad_sequence(waveforms, batch_first=True),
        num_samples=torch.tensor([len(waveform) for waveform in waveforms]),
        speaker_ids=[example.speaker_id for example in examples],
        indices=torch.tensor([example.index for example in examples]),
    )


def collate_pretrain(examples: Sequence[PretrainExample]) -> PretrainBatch:
    """Pad crops and their pseudo-labels; fairseq crops a batch to its shortest instead, which wastes audio."""
    pseudo_labels = [torch.from_numpy(example.pseudo_labels) for example in examples]
    padded = pad_sequence(pseudo_labels, batch_first=True, padding_value=NO_PSEUDO_LABEL)
    return PretrainBatch(**collate_speech(examples), pseudo_labels=padded)


def collate_emotion(examples: Sequence[EmotionExample]) -> EmotionBatch:
    """Pad utterances and stack their annotations."""
    labels = torch.stack([torch.from_numpy(example.labels) for example in examples])
    emotions = [example.emotion for example in examples]
    # mypy takes the speech for what might hold weights of its own
    return EmotionBatch(**collate_speech(examples), labels=labels, emotions=emotions)  # type: ignore[typeddict-item]


def collate_cached(examples: Sequence[CachedExample]) -> CachedEmotionBatch:
    """Pad cached frames and stack annotations; widened to full precision where they are used, not on their way."""
    features = [torch.from_numpy(example.features) for example in examples]
    return CachedEmotionBatch(
        features=pad_sequence(features, batch_first=True),
        num_frames=torch.tensor([len(frames) for frames in features]),
        speaker_ids=[example.speaker_id for example in examples],
        indices=torch.tensor([example.index for example in examples]),
        labels=torch.stack([torch.from_numpy(example.labels) for example in examples]),
        emotions=[example.emotion for example in examples],
    )
