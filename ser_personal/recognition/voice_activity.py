"""Where in a recording somebody speaks: by silero-vad, or by energy where that isn't installed."""

from __future__ import annotations

import warnings
from functools import cache
from importlib.util import find_spec
from threading import Lock
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from ser_personal.audio import SAMPLE_RATE
from ser_personal.errors import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray

HOP = 160
HOPS_A_FRAME = 3
FRAME = HOPS_A_FRAME * HOP
# of the energy detector, in dB
ABOVE_FLOOR = 9.0
BELOW_PEAK = 35.0
QUIETEST_SPEECH = -65.0
PADDING = 0.1

_SILERO = Lock()


class Segment(NamedTuple):
    """A part of a recording, in samples.

    Attributes:
        start: first sample.
        end: the sample after the last.
    """

    start: int
    end: int


class Detector(Protocol):
    """Finds speech."""

    def __call__(self, waveform: NDArray[np.float32]) -> list[Segment]:
        """Stretches of speech in the order of time, in samples.

        Args:
            waveform: (samples,), 16 kHz.
        """


class EnergyDetector:
    """Takes for speech what stands out from the recording's own floor; a crude stand-in for silero-vad (ours).

    A frame of 30 ms counts where its level is 9 dB above the recording's 10th percentile, within 35 dB of its loudest
    frame, and above -65 dB of full scale. Steady noise and tones have no such frames; music and slammed doors do.
    """

    def __call__(self, waveform: NDArray[np.float32]) -> list[Segment]:
        """Stretches of speech in the order of time, in samples."""
        level = levels(waveform)
        if len(level) == 0:
            return []
        threshold = max(np.quantile(level, 0.1) + ABOVE_FLOOR, level.max() - BELOW_PEAK, QUIETEST_SPEECH)
        loud = np.concatenate([[False], level > threshold, [False]])
        edges = np.flatnonzero(loud[1:] != loud[:-1])
        padding = int(PADDING * SAMPLE_RATE)
        found: list[Segment] = []
        for first, after in edges.reshape(-1, 2).tolist():
            start = max(0, first * HOP - padding)
            end = min(len(waveform), (after - 1) * HOP + FRAME + padding)
            if found and start <= found[-1].end:
                start = found.pop().start
            found.append(Segment(start, end))
        return found


class SileroDetector:
    """silero-vad (https://github.com/snakers4/silero-vad, MIT), whose package brings its weights.

    Raises:
        UserError: it isn't installed.
    """

    def __init__(self) -> None:
        if not has_silero():
            raise UserError(
                "needs the package silero-vad",
                where="cut silero",
                remedy="`pip install silero-vad`, or cut by energy or windows",
            )

    def __call__(self, waveform: NDArray[np.float32]) -> list[Segment]:
        """Stretches of speech in the order of time, in samples."""
        import torch
        from silero_vad import get_speech_timestamps

        # the network keeps a state from window to window, and recordings are cut in several threads
        with _SILERO, torch.inference_mode():
            found = get_speech_timestamps(torch.from_numpy(waveform), _silero(), sampling_rate=SAMPLE_RATE)
        return [Segment(stretch["start"], stretch["end"]) for stretch in found]


@cache
def _silero() -> Any:
    with warnings.catch_warnings():
        # torch's, of the format that the package's weights come in
        warnings.simplefilter("ignore", FutureWarning)
        from silero_vad import load_silero_vad

        return load_silero_vad()


def has_silero() -> bool:
    """Whether silero-vad is installed."""
    return find_spec("silero_vad") is not None


def levels(waveform: NDArray[np.float32]) -> NDArray[np.float64]:
    """Level of each frame of 30 ms every 10 ms, (frames,), in dB of full scale."""
    hops = waveform[: len(waveform) // HOP * HOP].reshape(-1, HOP)
    energy = np.einsum("ij,ij->i", hops, hops).astype(np.float64)
    frames = max(0, len(energy) - HOPS_A_FRAME + 1)
    power = np.sum([energy[offset : offset + frames] for offset in range(HOPS_A_FRAME)], axis=0) / FRAME
    level: NDArray[np.float64] = 10 * np.log10(power + 1e-10)
    return level
