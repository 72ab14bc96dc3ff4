"""What an utterance sounds like in a few hundred numbers, without a trained model."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from torchaudio.functional import compute_deltas
from torchaudio.transforms import MFCC

from ser_personal.audio import HOP, SAMPLE_RATE, WINDOW
from ser_personal.errors import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@cache
def _mfcc() -> MFCC:
    mel = {"n_fft": WINDOW, "hop_length": HOP, "n_mels": 40, "center": False}
    return MFCC(SAMPLE_RATE, n_mfcc=13, melkwargs=mel)


def mfcc_functionals(waveform: NDArray[np.float32]) -> NDArray[np.float32]:
    """Describe an utterance by the mean, deviation and quantiles of its MFCC over time.

    Source: ours; 13 coefficients with first and second differences, in frames of 400 samples every 320.

    Args:
        waveform: (samples,), 16 kHz, at least 400.

    Returns:
        (features,), the seven functionals of 39 values one after the other.

    Raises:
        UserError: the waveform is shorter than one frame.
    """
    if len(waveform) < WINDOW:
        raise UserError(f"has {len(waveform)} samples, a frame takes {WINDOW}", where="waveform", remedy="Leave it out")
    static = _mfcc()(torch.from_numpy(waveform))
    first = compute_deltas(static)
    frames = torch.cat([static, first, compute_deltas(first)]).numpy()
    functionals = [frames.mean(1), frames.std(1), *np.quantile(frames, QUANTILES, axis=1)]
    return np.concatenate(functionals).astype(np.float32)
