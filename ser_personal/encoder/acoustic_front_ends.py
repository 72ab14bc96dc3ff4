"""Acoustic features that people drew up: MFCC frames, and eGeMAPS functionals."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from torchaudio.functional import compute_deltas
from torchaudio.transforms import MFCC

from ser_personal.audio import HOP, SAMPLE_RATE, WINDOW
from ser_personal.encoder.front_end import StandardizedFrontEnd
from ser_personal.errors import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

COEFFICIENTS = 13
MELS = 40
EGEMAPS = 88


class MFCCFrontEnd(StandardizedFrontEnd):
    """13 MFCC with deltas and delta-deltas in 39 dimensions.

    Windows of 25 ms every 20 ms, uncentred, so that MFCC and HuBERT frames coincide (fairseq: every 10 ms by Kaldi,
    every second one used).
    """

    def __init__(self) -> None:
        super().__init__(3 * COEFFICIENTS)
        spectrum = {"n_fft": WINDOW, "win_length": WINDOW, "hop_length": HOP, "n_mels": MELS, "center": False}
        # torchaudio's decibels are cut relative to the loudest frame of the whole batch; plain logarithms aren't
        self.mfcc = MFCC(SAMPLE_RATE, n_mfcc=COEFFICIENTS, log_mels=True, melkwargs=spectrum)

    def features(self, waveforms: Tensor, num_samples: Tensor) -> Tensor:
        """Compute MFCC with deltas, (batch, samples) -> (batch, frames, 39)."""
        # One clip at a time, so that the deltas at its end and the rounding of its products can't depend on the batch.
        clips = [self._frames(waveform[:n]) for waveform, n in zip(waveforms, num_samples.tolist(), strict=True)]
        return pad_sequence(clips, batch_first=True)

    def _frames(self, waveform: Tensor) -> Tensor:
        if len(waveform) < WINDOW:
            return waveform.new_zeros(0, 3 * COEFFICIENTS)
        with torch.autocast(waveform.device.type, enabled=False):
            coefficients = self.mfcc(waveform.float())
            deltas = compute_deltas(coefficients)
            return torch.cat([coefficients, deltas, compute_deltas(deltas)]).T


class EGeMAPSFrontEnd(StandardizedFrontEnd):
    """eGeMAPS v02 (Eyben et al. 2016) by openSMILE: 88 functionals of an utterance, which make one frame.

    Clips too short for them, of less than about 0.1 s, count as the average one.
    """

    # jitter and ratios vary by hundredths
    smallest_variance = 1e-8

    def __init__(self) -> None:
        super().__init__(EGEMAPS)
        self._smile: Any = None

    def features(self, waveforms: Tensor, num_samples: Tensor) -> Tensor:
        """Compute functionals, (batch, samples) -> (batch, 1, 88)."""
        waves = waveforms.detach().float().cpu().numpy()
        lengths = num_samples.tolist()
        rows = [self._functionals(waveform[:n]) for waveform, n in zip(waves, lengths, strict=True)]
        computed = torch.from_numpy(np.stack(rows)).to(self.mean.device)[:, None]
        return torch.where(computed.isfinite(), computed, self.mean)

    def frame_mask(self, num_samples: Tensor, frames: int) -> Tensor:
        """Mark the one frame."""
        return num_samples.new_ones(len(num_samples), frames, dtype=torch.bool)

    def _functionals(self, waveform: NDArray[np.float32]) -> NDArray[np.float32]:
        self._smile = self._smile or _open_smile()
        # it counts in 16 bits, where more than full scale would turn negative
        samples = np.clip(waveform, -1.0, 1.0 - 2.0**-15)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Segment too short")
            functionals: NDArray[np.float32] = self._smile(samples, SAMPLE_RATE).reshape(EGEMAPS).astype(np.float32)
        return functionals


def _open_smile() -> Any:
    try:
        import opensmile
    except ImportError as error:
        raise UserError(
            "needs the package opensmile", where="EGeMAPSEncoder", remedy="`pip install ser_personal[egemaps]`"
        ) from error
    return opensmile.Smile(opensmile.FeatureSet.eGeMAPSv02, opensmile.FeatureLevel.Functionals)
