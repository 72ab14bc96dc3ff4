"""Acoustic features in place of a pre-trained network: log-mel and MFCC, as a baseline, or frames from a cache."""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import asdict

import numpy as np
import torch
import torchaudio
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence
from torchaudio.compliance import kaldi
from torchaudio.functional import compute_deltas
from typing_extensions import override

from ser_personal.audio import HOP, SAMPLE_RATE, WINDOW
from ser_personal.encoder.base import Encoder, real_frames
from ser_personal.encoder.speaker_fusion import UNPERSONALIZED, Personalization, fuse
from ser_personal.errors import UserError
from ser_personal.scores import Moments
from ser_personal.types import EncoderOutput, FeatureSource, TrainingSet

STATISTICS_UTTERANCES = 500
SMALLEST_VARIANCE = 1e-4


class StandardizedFrontEnd(nn.Module, ABC):
    """Acoustic features, standardised over training utterances; a norm of each utterance would erase its energy."""

    mean: Tensor
    std: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("std", torch.ones(dim))

    @abstractmethod
    def features(self, waveforms: Tensor, num_samples: Tensor) -> Tensor:
        """(batch, samples) -> (batch, frames, dim), not standardised."""

    @override
    def forward(self, waveforms: Tensor, num_samples: Tensor) -> Tensor:
        return (self.features(waveforms, num_samples) - self.mean) / self.std

    def fit(self, training_audio: Callable[[int], Iterator[NDArray[np.float32]]]) -> None:
        """Estimate mean and deviation of each feature on training waveforms (samples,)."""
        moments = Moments.empty(self.dim)
        for waveform in training_audio(STATISTICS_UTTERANCES):
            frames = self.features(torch.from_numpy(waveform)[None], torch.tensor([len(waveform)]))[0]
            moments = moments.merge(Moments.of(frames.numpy()))
        self.mean.copy_(torch.from_numpy(moments.mean))
        # also of no audio, whose variance is NaN
        self.std.copy_(torch.from_numpy(np.sqrt(np.fmax(moments.variance, SMALLEST_VARIANCE))))


class LogMelFrontEnd(StandardizedFrontEnd):
    """Log-mel frames of a 400-sample window every 320 samples, uncentred, so that their number is HuBERT's."""

    filters: Tensor
    window: Tensor

    def __init__(self, num_mels: int) -> None:
        super().__init__(num_mels)
        filters = torchaudio.functional.melscale_fbanks(
            WINDOW // 2 + 1, 0.0, SAMPLE_RATE / 2, num_mels, SAMPLE_RATE, norm=None, mel_scale="htk"
        )
        self.register_buffer("filters", filters, persistent=False)
        self.register_buffer("window", torch.hann_window(WINDOW), persistent=False)

    @override
    def features(self, waveforms: Tensor, num_samples: Tensor) -> Tensor:
        with torch.autocast(waveforms.device.type, enabled=False):
            windows = waveforms.float().unfold(-1, WINDOW, HOP) * self.window
            power = torch.fft.rfft(windows).abs().square()
            return functional.threshold(power @ self.filters, 1e-6, 1e-6).log()


MFCC_DIM = 39


def mfcc(waveform: Tensor) -> Tensor:
    """MFCC with deltas and delta-deltas of a waveform (samples,) at 16 kHz; -> (frames, 39), as many as HuBERT has.

    As in fairseq's first iteration of HuBERT: Kaldi's MFCC every 10 ms with C0, of which every second frame is used.
    """
    if len(waveform) < WINDOW:
        return waveform.new_zeros(0, MFCC_DIM)
    with torch.autocast(waveform.device.type, enabled=False):
        static = kaldi.mfcc(waveform.float()[None], sample_frequency=SAMPLE_RATE, use_energy=False).T
        deltas = compute_deltas(static)
        return torch.cat([static, deltas, compute_deltas(deltas)]).T[::2]


class MFCCFrontEnd(StandardizedFrontEnd):
    """`mfcc`, in which a frame depends on no other clip."""

    def __init__(self) -> None:
        super().__init__(MFCC_DIM)

    @override
    def features(self, waveforms: Tensor, num_samples: Tensor) -> Tensor:
        # One clip at a time, so that the deltas at its end and the rounding of its products can't depend on the batch.
        clips = [mfcc(waveform[:n]) for waveform, n in zip(waveforms, num_samples.tolist(), strict=True)]
        return pad_sequence(clips, batch_first=True)


def mfcc_functionals(waveform: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mean, deviation and quantiles over time of the MFCC of a waveform (samples,), at 16 kHz; -> (273,). Ours."""
    frames = mfcc(torch.from_numpy(waveform)).numpy()
    functionals = [frames.mean(0), frames.std(0), *np.quantile(frames, (0.05, 0.25, 0.5, 0.75, 0.95), axis=0)]
    return np.concatenate(functionals).astype(np.float32)


class RawEncoder(Encoder):
    """Acoustic features, standardised over at most 500 training utterances."""

    mixes_frames = False

    @abstractmethod
    def __init__(self, front_end: StandardizedFrontEnd) -> None:
        super().__init__()
        self.front_end = front_end
        self.dim = front_end.dim

    @override
    def build(self, config: str | None = None, training_set: TrainingSet | None = None) -> None:
        if config is not None and json.loads(config) != json.loads(self.config):
            what, remedy = "was trained on an earlier version's features", "Train it again with this version"
            raise UserError(what, where="the checkpoint", remedy=remedy)
        if training_set is not None:
            self.front_end.fit(training_set.training_audio)

    @override
    def forward(
        self,
        waveforms: Tensor,
        num_samples: Tensor,
        time_mask: Tensor | None = None,
        personalization: Personalization = UNPERSONALIZED,
    ) -> EncoderOutput:
        frames = self.front_end(waveforms, num_samples)
        return EncoderOutput(fuse(frames, personalization), real_frames(num_samples, frames))


class LogMelEncoder(RawEncoder):
    """80 log-mel bins, 50 frames a second."""

    config = '{"model_type": "log_mel", "num_mels": 80}'

    def __init__(self) -> None:
        super().__init__(LogMelFrontEnd(80))


class MFCCEncoder(RawEncoder):
    """13 MFCC with deltas and delta-deltas, 39 dimensions, 50 frames a second."""

    config = '{"model_type": "mfcc", "mfcc": "Kaldi\'s"}'

    def __init__(self) -> None:
        super().__init__(MFCCFrontEnd())


class CachedFeatures(Encoder):
    """Frames as batches of `CachedEmotionDataModule` bring them; e_s enters after them.

    Fusion `prefix` is for interpreters that read e_s as a token, and refused with others.
    """

    mixes_frames = False
    reads = ("features", "num_frames")
    source: FeatureSource

    @property
    @override
    def config(self) -> str:
        return json.dumps({"model_type": "cached_features", "source": asdict(self.source)})

    @override
    def build(self, config: str | None = None, training_set: TrainingSet | None = None) -> None:
        source = None if training_set is None else training_set.frame_source
        if config is not None:
            source = FeatureSource(**json.loads(config)["source"])
        if source is None:
            remedy = "Give --data CachedEmotionDataModule with --data.cache, the folder that `ser cache` wrote"
            raise UserError("there is no feature cache to read", where="--model.encoder CachedFeatures", remedy=remedy)
        self.source, self.dim = source, source.dim

    @override
    def forward(
        self,
        features: Tensor,
        num_frames: Tensor,
        time_mask: Tensor | None = None,
        personalization: Personalization = UNPERSONALIZED,
    ) -> EncoderOutput:
        # half precision is how they are stored; the trainer's precision is how they are computed with
        frames = features.float() if features.dtype == torch.float16 else features
        frame_mask = torch.arange(frames.shape[1], device=frames.device) < num_frames[:, None]
        return EncoderOutput(fuse(frames, personalization), frame_mask)
