"""Where the utterances of a recording are: by speech, by windows, or by turns."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from itertools import pairwise
from threading import Lock
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ser_personal.audio import SAMPLE_RATE, WINDOW, is_silent
from ser_personal.errors import UserError, require_one_of, require_range
from ser_personal.recognition.turns import Turn

CutName = Literal["speech", "silero", "energy", "windows"]

# of the energy detector: frames of 30 ms every 10 ms, levels in dB
HOP = 160
HOPS_A_FRAME = 3
FRAME = HOPS_A_FRAME * HOP
ABOVE_FLOOR = 9.0
BELOW_PEAK = 35.0
QUIETEST_SPEECH = -65.0
PADDING = int(0.1 * SAMPLE_RATE)

LONGEST_PAUSE = int(0.5 * SAMPLE_RATE)
SHORTEST_SPEECH = int(0.25 * SAMPLE_RATE)
# a block begins where frames of the detectors, 160 and 512 samples apart, would begin in the whole
GRID = 2560
_SILERO_LOCK = Lock()


class Segment(NamedTuple):
    """A part of a recording, in samples, `end` the one after its last."""

    start: int
    end: int

    @property
    def samples(self) -> int:
        """Its length."""
        return self.end - self.start


# waveform (samples,), 16 kHz -> parts of it in the order of time
Segmenter = Callable[["NDArray[np.float32]"], list[Segment]]


def energy_speech(waveform: NDArray[np.float32]) -> list[Segment]:
    """Stretches of speech that stand out from the recording's noise floor; a crude stand-in for silero-vad (ours).

    A frame of 30 ms counts where its level is 9 dB above the recording's 10th percentile, within 35 dB of its loudest
    frame, and above -65 dB of full scale. Steady noise and tones have no such frames; music and slammed doors do.
    """
    hops = waveform[: len(waveform) // HOP * HOP].reshape(-1, HOP)
    energy = np.einsum("ij,ij->i", hops, hops).astype(np.float64)
    frames = len(energy) - HOPS_A_FRAME + 1
    if frames <= 0:
        return []
    power = np.sum([energy[offset : offset + frames] for offset in range(HOPS_A_FRAME)], axis=0) / FRAME
    level: NDArray[np.float64] = 10 * np.log10(power + 1e-10)
    threshold = max(np.quantile(level, 0.1) + ABOVE_FLOOR, level.max() - BELOW_PEAK, QUIETEST_SPEECH)
    loud = np.concatenate([[False], level > threshold, [False]])
    edges = np.flatnonzero(loud[1:] != loud[:-1])
    padded = [
        Segment(max(0, first * HOP - PADDING), min(len(waveform), (after - 1) * HOP + FRAME + PADDING))
        for first, after in edges.reshape(-1, 2).tolist()
    ]
    return join(padded, 0, len(waveform))


def silero_speech(waveform: NDArray[np.float32]) -> list[Segment]:
    """Stretches of speech by silero-vad (https://github.com/snakers4/silero-vad, MIT), which brings its weights."""
    import torch
    from silero_vad import get_speech_timestamps

    # the network keeps a state from window to window, and recordings are cut in several threads
    with _SILERO_LOCK, torch.inference_mode():
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


@dataclass(frozen=True)
class BySpeech:
    """Cuts where a speaker pauses. A recording no longer than an utterance of the training is one utterance, uncut.

    Whether such a short one holds speech at all is decided by energy, whatever cuts the long ones: silero-vad takes
    longer than a small model does, and misses some single words.
    """

    find_speech: Segmenter
    max_samples: int

    def __call__(self, waveform: NDArray[np.float32]) -> list[Segment]:
        """Utterances in the order of time; none where there is no speech."""
        if len(waveform) <= self.max_samples:
            return [Segment(0, len(waveform))] if energy_speech(waveform) else []
        joined = join(self.find_speech(waveform), LONGEST_PAUSE, self.max_samples)
        cut = [piece for segment in joined for piece in split_evenly(segment, self.max_samples)]
        return [segment for segment in cut if segment.samples >= SHORTEST_SPEECH] or cut[:1]


@dataclass(frozen=True)
class ByWindows:
    """Cuts into windows of `samples`, one every `hop` samples; the last is shorter, and silent ones are left out."""

    samples: int
    hop: int

    def __call__(self, waveform: NDArray[np.float32]) -> list[Segment]:
        """Windows in the order of time; none where all are silent."""
        windows = self.within(Segment(0, len(waveform)))
        return [window for window in windows if not is_silent(waveform[window.start : window.end])]

    def within(self, stretch: Segment) -> list[Segment]:
        """Windows of a stretch of a recording, the silent ones, too; each has samples that those before it lack."""
        starts = range(stretch.start, max(stretch.start + 1, stretch.end - max(0, self.samples - self.hop)), self.hop)
        windows = [Segment(start, min(start + self.samples, stretch.end)) for start in starts]
        if len(windows) > 1 and windows[-1].samples < WINDOW:
            last = windows.pop()
            windows += [Segment(windows.pop().start, last.end)] if self.hop <= self.samples else []
        return windows


def make_segmenter(
    name: CutName, *, max_samples: int, window_seconds: float = 5.0, hop_seconds: float | None = None
) -> Segmenter:
    """Make the segmenter of that name: `speech` is by silero-vad where it is installed, else by energy."""
    require_one_of("cut", name, CutName)
    if name == "windows":
        hop = window_seconds if hop_seconds is None else hop_seconds
        for flag, seconds in (("--window_seconds", window_seconds), ("--hop_seconds", hop)):
            require_range(flag, seconds, WINDOW / SAMPLE_RATE)
        return ByWindows(int(window_seconds * SAMPLE_RATE), int(hop * SAMPLE_RATE))
    if hop_seconds is not None:
        raise UserError("is of windows alone", where="--hop_seconds", remedy="Give --cut windows with it")
    if name == "silero" and not has_silero():
        remedy = "`pip install silero-vad`, or give --cut energy or --cut windows"
        raise UserError("needs the package silero-vad", where="--cut silero", remedy=remedy)
    return BySpeech(silero_speech if name != "energy" and has_silero() else energy_speech, max_samples)


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
    parts = max(1, -(-segment.samples // max_samples))
    cuts = [segment.start + segment.samples * part // parts for part in range(parts + 1)]
    return [Segment(start, end) for start, end in pairwise(cuts)]


def before_pause(found: Sequence[Segment], num_samples: int) -> tuple[list[Segment], int]:
    """What of a block (samples,) of a longer recording is certain whatever follows, and where the next is to begin.

    That is what lies before its last pause, across which nothing is joined, or all but the last where there is none.
    """
    following = [*(segment.start for segment in found[1:]), num_samples]
    for number in reversed(range(len(found))):
        if following[number] - found[number].end > LONGEST_PAUSE:
            last = number + 1 == len(found)
            rest = num_samples - LONGEST_PAUSE if last else following[number] - LONGEST_PAUSE // 2
            return list(found[: number + 1]), rest + -rest % GRID
    if len(found) > 1:
        return list(found[:-1]), found[-1].start
    rest = 0 if found else max(0, num_samples - LONGEST_PAUSE)
    return [], rest + -rest % GRID


def cut_turns(
    turns: Sequence[Turn], num_samples: int, cut_one: Callable[[Segment], list[Segment]]
) -> list[tuple[Segment, str | None]]:
    """Utterances of a recording's turns and their speakers in the order of time, each turn cut by `cut_one`."""
    cut = []
    for start, end, speaker_id, *_ in turns:
        # no shorter than a frame
        first = min(round(start * SAMPLE_RATE), num_samples - WINDOW)
        last = max(round(min(end * SAMPLE_RATE, num_samples)), first + WINDOW)
        cut += [(piece, speaker_id) for piece in cut_one(Segment(first, last))]
    return sorted(cut, key=lambda utterance: utterance[0])
