from __future__ import annotations

import numpy as np

from ser_personal.audio import num_frames


def energy_labels(waveform: np.ndarray) -> np.ndarray:
    """Which eighth of a frame's 400 samples is loudest, (frames,)."""
    frames = [waveform[320 * t : 320 * t + 400].reshape(8, 50) for t in range(num_frames(len(waveform)))]
    return np.array([np.square(frame).sum(1).argmax() for frame in frames], dtype=np.int64)
