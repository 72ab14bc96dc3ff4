"""From waveforms to features: HuBERT's convolutions, log-mel and MFCC."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torchaudio
from torch import nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence
from torchaudio.compliance import kaldi
from torchaudio.functional import compute_deltas
from typing_extensions import override

from ser_personal.audio import HOP, SAMPLE_RATE, WINDOW
from ser_personal.errors import UserError
from ser_personal.scores import Moments

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray
    from torch import Tensor


class ConvFrontEnd(nn.Module):
    """The convolutions of a transformers model, with a group norm that doesn't see padding.

    The first norm of base-size models takes its statistics over time; over padding as well, a clip's features would
    depend on its batch mates (by about 1 on random weights). Taken over real frames alone they don't, since every
    later window of a real frame lies inside real frames. Ours.

    Args:
        layers: a transformers model's `feature_extractor.conv_layers`.
        gradient_scale: factor on the gradient that reaches the convolutions (fairseq's feature_grad_mult).
    """

    def __init__(self, layers: nn.ModuleList, gradient_scale: float = 1.0) -> None:
        super().__init__()
        self.conv_layers = layers
        self.gradient_scale = gradient_scale

    @override
    def forward(self, waveforms: Tensor, num_samples: Tensor) -> Tensor:
        """(batch, samples) -> (batch, frames, channels)."""
        hidden = waveforms[:, None]
        trained = torch.is_grad_enabled() and any(weight.requires_grad for weight in self.parameters())
        with torch.set_grad_enabled(trained):
            layer: Any
            for layer in self.conv_layers:
                norm = getattr(layer, "layer_norm", None)
                if isinstance(norm, nn.GroupNorm):
                    hidden = layer.conv(hidden)
                    lengths = (num_samples - layer.conv.kernel_size[0]) // layer.conv.stride[0] + 1
                    hidden = layer.activation(_norm_over_real_frames(hidden, lengths, norm))
                else:
                    hidden = layer(hidden)
        if trained and self.gradient_scale != 1.0:
            hidden = hidden * self.gradient_scale + hidden.detach() * (1 - self.gradient_scale)
        return hidden.transpose(1, 2)


def _norm_over_real_frames(hidden: Tensor, lengths: Tensor, norm: nn.GroupNorm) -> Tensor:
    if not torch.compiler.is_exporting() and bool((lengths >= hidden.shape[2]).all()):
        normed: Tensor = norm(hidden)
        return normed
    lengths = lengths.to(hidden.device, non_blocking=True)
    real = (torch.arange(hidden.shape[2], device=hidden.device) < lengths[:, None])[:, None]
    count = lengths[:, None, None]
    values = hidden.float()
    mean = (values * real).sum(2, keepdim=True) / count
    variance = ((values - mean).square() * real).sum(2, keepdim=True) / count
    normed = (values - mean) * torch.rsqrt(variance + norm.eps)
    return (normed * norm.weight[:, None] + norm.bias[:, None]).to(hidden.dtype)


# whose features a front end's statistics are computed over, at most
STATISTICS_UTTERANCES = 500
SMALLEST_VARIANCE = 1e-4


class StandardizedFrontEnd(nn.Module, ABC):
    """Acoustic features, each standardised over the training set.

    A norm over each utterance, or over the features of each frame, would erase the energy that carries arousal.
    """

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
        """(batch, samples) -> standardised (batch, frames, dim)."""
        return (self.features(waveforms, num_samples) - self.mean) / self.std

    def fit(self, training_audio: Callable[[int], Iterator[NDArray[np.float32]]]) -> None:
        """Take the mean and deviation of each feature from training waveforms (samples,), so many at most."""
        moments = Moments.empty(self.dim)
        for waveform in training_audio(STATISTICS_UTTERANCES):
            samples = torch.from_numpy(waveform).to(self.mean.device)[None]
            frames = self.features(samples, torch.tensor([samples.shape[1]], device=samples.device))[0]
            moments = moments.merge(Moments.of(frames.cpu().numpy()))
        variance = moments.m2 / np.maximum(moments.count, 1)
        self.mean.copy_(torch.from_numpy(moments.mean))
        self.std.copy_(torch.from_numpy(np.sqrt(variance.clip(min=SMALLEST_VARIANCE))))


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
        """(batch, samples) -> (batch, frames, mels), natural logarithm of power."""
        with torch.autocast(waveforms.device.type, enabled=False):
            windows = waveforms.float().unfold(-1, WINDOW, HOP) * self.window
            power = torch.fft.rfft(windows).abs().square()
            return functional.threshold(power @ self.filters, 1e-6, 1e-6).log()


# 13 coefficients, their deltas and those of the deltas
MFCC_DIM = 39


def mfcc(waveform: Tensor) -> Tensor:
    """MFCC with deltas and delta-deltas of a waveform (samples,) at 16 kHz; -> (frames, 39), as many as HuBERT has.

    Source: fairseq's first iteration of HuBERT: Kaldi's MFCC every 10 ms with C0, not the energy, deltas over these
    frames, and every second one of them used.
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
    """Mean, deviation and quantiles over time of the MFCC of a waveform (samples,), at 16 kHz; -> (273,). Ours.

    Raises:
        UserError: the waveform is shorter than one frame.
    """
    if len(waveform) < WINDOW:
        raise UserError(f"has {len(waveform)} samples, a frame takes {WINDOW}", where="waveform", remedy="Leave it out")
    frames = mfcc(torch.from_numpy(waveform)).numpy()
    functionals = [frames.mean(0), frames.std(0), *np.quantile(frames, (0.05, 0.25, 0.5, 0.75, 0.95), axis=0)]
    return np.concatenate(functionals).astype(np.float32)
