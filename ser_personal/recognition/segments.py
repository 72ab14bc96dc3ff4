"""One recording -> the utterances to recognise in it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

from ser_personal.audio import SAMPLE_RATE, WINDOW
from ser_personal.errors import UserError
from ser_personal.recognition.voice_activity import EnergyDetector, Segment, SileroDetector, has_silero

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ser_personal.recognition.voice_activity import Detector

CutName = Literal["speech", "silero", "energy", "windows"]

LONGEST_PAUSE = 0.5
SHORTEST_SPEECH = 0.25
# below it a recording is taken for silent: 16 bits' last one or two are noise
SILENCE = 1e-4


class Segmenter(Protocol):
    """Finds the utterances of a recording."""

    def __call__(self, waveform: NDArray[np.float32]) -> list[Segment]:
        """Utterances in the order of time; none where there is no speech.

        Args:
            waveform: (samples,), 16 kHz.
        """


@dataclass(frozen=True)
class BySpeech:
    """Cuts where a speaker pauses. A recording no longer than an utterance of the training is one utterance, uncut.

    Whether such a short one holds speech at all is asked of the energy detector, whatever cuts the long ones:
    silero-vad takes longer than a small model does, and misses some single words.

    Attributes:
        detector: finds speech in long recordings.
        max_samples: of an utterance.
    """

    detector: Detector
    max_samples: int

    def __call__(self, waveform: NDArray[np.float32]) -> list[Segment]:
        """Utterances in the order of time; none where there is no speech."""
        if len(waveform) <= self.max_samples:
            return [Segment(0, len(waveform))] if EnergyDetector()(waveform) else []
        joined = join(self.detector(waveform), int(LONGEST_PAUSE * SAMPLE_RATE), self.max_samples)
        cut = [piece for segment in joined for piece in split_evenly(segment, self.max_samples)]
        long_enough = [segment for segment in cut if segment.end - segment.start >= SHORTEST_SPEECH * SAMPLE_RATE]
        return long_enough or cut[:1]


@dataclass(frozen=True)
class ByWindows:
    """Cuts into windows of one length; the last is shorter, and silent ones are left out.

    Attributes:
        samples: of a window.
    """

    samples: int

    def __post_init__(self) -> None:
        if self.samples < WINDOW:
            raise UserError(
                f"windows of {self.samples / SAMPLE_RATE:g} s are shorter than one frame",
                where="window_seconds",
                remedy="Give some seconds",
            )

    def __call__(self, waveform: NDArray[np.float32]) -> list[Segment]:
        """Windows in the order of time; none where all are silent."""
        starts = range(0, len(waveform), self.samples)
        windows = [Segment(start, min(start + self.samples, len(waveform))) for start in starts]
        if len(windows) > 1 and windows[-1].end - windows[-1].start < WINDOW:
            last = windows.pop()
            windows[-1] = Segment(windows[-1].start, last.end)
        return [window for window in windows if not is_silent(waveform[window.start : window.end])]


def make_segmenter(name: CutName, *, max_samples: int, window_seconds: float) -> Segmenter:
    """Make the segmenter of that name.

    Args:
        name: `speech` by silero-vad where it is installed, else by energy; either of them; or `windows`.
        max_samples: the longest utterance that the model was trained on.
        window_seconds: of a window.

    Raises:
        UserError: silero-vad is asked for by name and not installed.
    """
    if name == "windows":
        return ByWindows(int(window_seconds * SAMPLE_RATE))
    by_network = name == "silero" or (name == "speech" and has_silero())
    return BySpeech(SileroDetector() if by_network else EnergyDetector(), max_samples)


def is_silent(waveform: NDArray[np.float32]) -> bool:
    """Whether nothing in a waveform (samples,) is louder than noise of the last bits."""
    return bool(np.abs(waveform).max(initial=0.0) < SILENCE)


def join(speech: Sequence[Segment], longest_pause: int, max_samples: int) -> list[Segment]:
    """Join stretches of speech across pauses of at most `longest_pause` samples, up to `max_samples` together."""
    joined: list[Segment] = []
    for segment in speech:
        near = joined and segment.start - joined[-1].end <= longest_pause
        if near and segment.end - joined[-1].start <= max_samples:
            joined[-1] = Segment(joined[-1].start, segment.end)
        else:
            joined.append(segment)
    return joined


def split_evenly(segment: Segment, max_samples: int) -> list[Segment]:
    """Cut a stretch of speech into the fewest equal parts of at most `max_samples`."""
    samples = segment.end - segment.start
    parts = max(1, -(-samples // max_samples))
    cuts = [segment.start + samples * part // parts for part in range(parts + 1)]
    return [Segment(start, end) for start, end in pairwise(cuts)]
