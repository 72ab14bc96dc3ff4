"""The recordings to recognise, from a file, a folder, a table or arrays, and where their utterances are."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.util import find_spec
from itertools import pairwise
from math import inf, isnan
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from ser_personal.audio import SAMPLE_RATE, WINDOW, decode, fault_of, is_silent, num_samples_of, resample
from ser_personal.corpus.table import SEGMENT, is_table, known, read_csv_rows
from ser_personal.corpus.table import segment as segment_of
from ser_personal.errors import UserError
from ser_personal.recognition.turns import Turn, Turns, check_turns, read_turns

if TYPE_CHECKING:
    from numpy.typing import NDArray

CutName = Literal["speech", "silero", "energy", "windows"]
SpeakerFrom = Literal["folder", "column", "none"]

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

TABLE = "corpus.csv"
# those that libsndfile reads, and common ones that it doesn't: to be named as failures rather than passed over
SOUND_FILES = {".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aiff", ".aif", ".aifc", ".au", ".snd", ".caf"}
SOUND_FILES |= {".w64", ".rf64", ".m4a", ".aac", ".mp4", ".wma", ".webm", ".amr"}
_REMEDY = "Leave it out, or give sound such as 16 kHz WAV or FLAC"
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
    level = levels(waveform)
    if len(level) == 0:
        return []
    threshold = max(np.quantile(level, 0.1) + ABOVE_FLOOR, level.max() - BELOW_PEAK, QUIETEST_SPEECH)
    loud = np.concatenate([[False], level > threshold, [False]])
    edges = np.flatnonzero(loud[1:] != loud[:-1])
    found: list[Segment] = []
    for first, after in edges.reshape(-1, 2).tolist():
        start = max(0, first * HOP - PADDING)
        end = min(len(waveform), (after - 1) * HOP + FRAME + PADDING)
        if found and start <= found[-1].end:
            start = found.pop().start
        found.append(Segment(start, end))
    return found


def levels(waveform: NDArray[np.float32]) -> NDArray[np.float64]:
    """Level of each frame of 30 ms every 10 ms, (frames,), in dB of full scale."""
    hops = waveform[: len(waveform) // HOP * HOP].reshape(-1, HOP)
    energy = np.einsum("ij,ij->i", hops, hops).astype(np.float64)
    frames = max(0, len(energy) - HOPS_A_FRAME + 1)
    power = np.sum([energy[offset : offset + frames] for offset in range(HOPS_A_FRAME)], axis=0) / FRAME
    level: NDArray[np.float64] = 10 * np.log10(power + 1e-10)
    return level


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
    """Cuts into windows of one length; the last is shorter, and silent ones are left out."""

    samples: int

    def __post_init__(self) -> None:
        if self.samples < WINDOW:
            raise UserError(
                f"windows of {self.samples / SAMPLE_RATE:g} s are shorter than one frame",
                where="--window_seconds",
                remedy="Give some seconds",
            )

    def __call__(self, waveform: NDArray[np.float32]) -> list[Segment]:
        """Windows in the order of time; none where all are silent."""
        starts = range(0, len(waveform), self.samples)
        windows = [Segment(start, min(start + self.samples, len(waveform))) for start in starts]
        if len(windows) > 1 and windows[-1].samples < WINDOW:
            last = windows.pop()
            windows[-1] = Segment(windows[-1].start, last.end)
        return [window for window in windows if not is_silent(waveform[window.start : window.end])]


def make_segmenter(name: CutName, *, max_samples: int, window_seconds: float) -> Segmenter:
    """Make the segmenter of that name: `speech` is by silero-vad where it is installed, else by energy."""
    if name == "windows":
        return ByWindows(int(window_seconds * SAMPLE_RATE))
    if name == "silero" and not has_silero():
        raise UserError(
            "needs the package silero-vad",
            where="--cut silero",
            remedy="`pip install silero-vad`, or give --cut energy or --cut windows",
        )
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


def cut_turns(turns: Sequence[Turn], num_samples: int, max_samples: int) -> list[tuple[Segment, str | None]]:
    """Utterances and their speakers in the order of time, turns longer than `max_samples` cut evenly."""
    cut = []
    for start, end, speaker_id in turns:
        # no shorter than a frame
        first = min(round(start * SAMPLE_RATE), num_samples - WINDOW)
        last = max(round(min(end * SAMPLE_RATE, num_samples)), first + WINDOW)
        cut += [(piece, speaker_id) for piece in split_evenly(Segment(first, last), max_samples)]
    return sorted(cut, key=lambda utterance: utterance[0])


@dataclass(frozen=True, eq=False)
class Recording:
    """Audio of one speaker, or of several who take turns.

    Attributes:
        source: what its rows are called.
        audio: a file, or a waveform (samples,) at 16 kHz.
        speaker_id: None where unknown.
        turns: who speaks when, or what is wrong about that; None where it is all of `speaker_id`.
    """

    source: str
    audio: Path | NDArray[np.float32]
    speaker_id: str | None = None
    turns: Turns | None = None

    @property
    def speaker_ids(self) -> set[str | None]:
        """Who speaks in it."""
        if isinstance(self.turns, tuple):
            return {turn.speaker_id for turn in self.turns}
        return {self.speaker_id}

    def load(self) -> NDArray[np.float32]:
        """Decode it, -> (samples,), 16 kHz.

        Raises:
            UserError: it can't be decoded, is shorter than one frame, silent, or holds values that aren't finite.
        """
        if isinstance(self.turns, UserError):
            raise UserError(self.turns.what, where=self.source, remedy=self.turns.remedy) from self.turns
        try:
            waveform = decode(self.audio) if isinstance(self.audio, Path) else self.audio
            wrong = fault_of(waveform)
            check_turns(self.turns or (), waveform)
        except UserError as error:
            raise UserError(error.what, where=self.source, remedy=_REMEDY) from error
        if wrong is not None:
            raise UserError(wrong, where=self.source, remedy=_REMEDY)
        return waveform

    def seconds(self) -> float:
        """Duration by the file's header, 0 where it can't be read."""
        if not isinstance(self.audio, Path):
            return len(self.audio) / SAMPLE_RATE
        try:
            return num_samples_of(self.audio) / SAMPLE_RATE if self.audio.is_file() else 0.0
        except UserError:
            return 0.0


def with_turns(recordings: Sequence[Recording], segments: Path, *, named: bool) -> list[Recording]:
    """The recordings with the turns that `read_turns` finds for the stems of their names, speakers named or not.

    Turns without their recording, and recordings without turns, are recordings with a fault.
    """
    if any(recording.turns is not None for recording in recordings):
        remedy = "Leave its columns start and end out, or the segments"
        raise UserError("the table has segments of its own", where=segments, remedy=remedy)
    turns = read_turns(segments)
    stems = [Path(recording.source).stem for recording in recordings]
    found = []
    for stem, recording in zip(stems, recordings, strict=True):
        fault = UserError(f"has no turns in {segments}", remedy="Leave it out, or call it as they do")
        own = turns.get(stem, fault)
        if stems.count(stem) > 1:
            own = UserError(f"isn't the only recording called {stem}", remedy="Annotate them one by one")
        elif not named and isinstance(own, tuple):
            own = tuple(turn._replace(speaker_id=None) for turn in own)
        found.append(replace(recording, speaker_id=None, turns=own))
    missing = UserError(f"no recording is called so, as turns in {segments} are", remedy="Add it, or leave them out")
    return found + [Recording(stem, Path(stem), turns=missing) for stem in sorted(turns.keys() - set(stems))]


def recordings_of(
    audio: Any,
    speaker_ids: str | Sequence[str | None] | None = None,
    segments: str | Path | Sequence[Any] | None = None,
    *,
    sample_rate: int = SAMPLE_RATE,
) -> list[Recording]:
    """Recordings of what a Python user passes to `EmotionRecognizer.predict`."""
    single = isinstance(audio, str | Path) or hasattr(audio, "shape")
    several = [audio] if single else list(audio)
    one_for_all = speaker_ids is None or isinstance(speaker_ids, str)
    speakers: Sequence[Any] = [speaker_ids] * len(several) if one_for_all else list(speaker_ids or ())
    if len(speakers) != len(several):
        raise UserError(
            f"{len(speakers)} speakers for {len(several)} recordings",
            where="speaker_ids",
            remedy="Give one id a recording, None where unknown",
        )
    recordings = [
        Recording(str(one), Path(one), speaker)
        if isinstance(one, str | Path)
        else Recording(f"array {number}", _waveform(one, number, sample_rate), speaker)
        for number, (one, speaker) in enumerate(zip(several, speakers, strict=True))
    ]
    if segments is None:
        return recordings
    if speaker_ids is not None:
        raise UserError("the segments say who speaks", where="speaker_ids", remedy="Leave one of the two out")
    if isinstance(segments, str | Path):
        return with_turns(recordings, Path(segments), named=True)
    try:
        turns = [tuple(Turn(*turn) for turn in of_one) for of_one in ([segments] if single else segments)]
        return [replace(recording, turns=of_one) for recording, of_one in zip(recordings, turns, strict=True)]
    except (TypeError, ValueError) as error:
        remedy = "Give of each recording a list of (start, end, speaker), in seconds"
        raise UserError(f"isn't one list a recording ({error})", where="segments", remedy=remedy) from error


def _waveform(array: Any, number: int, sample_rate: int) -> NDArray[np.float32]:
    if hasattr(array, "detach"):
        array = array.detach().cpu().numpy()
    waveform = np.asarray(array)
    if waveform.ndim != 1 or waveform.dtype.kind != "f":
        raise UserError(
            f"is of shape {waveform.shape} and type {waveform.dtype}",
            where=f"array {number}",
            remedy="Give one channel of floats from -1 to 1, (samples,)",
        )
    waveform = np.ascontiguousarray(waveform, dtype=np.float32)
    return waveform if sample_rate == SAMPLE_RATE else resample(waveform, sample_rate)


def find_recordings(audio: Path, speaker_from: SpeakerFrom) -> list[Recording]:
    """List the recordings of a file, a folder (with the folders inside it) or a table, in a fixed order.

    Where speakers come from a column, a folder's table is its corpus.csv.
    """
    if speaker_from == "column" and audio.is_dir():
        audio = audio / TABLE
    if is_table(audio):
        return _from_table(audio, speaker_from)
    if speaker_from == "column":
        raise UserError("has no columns", where=audio, remedy="Give a .csv table with the columns path and speaker")
    if audio.is_dir():
        files = sorted(path for path in audio.rglob("*") if _is_sound_file(path))
        if not files:
            raise UserError("holds no sound file", where=audio, remedy="Give a folder with wav, flac, ogg or mp3 files")
    elif audio.exists():
        files = [audio]
    else:
        raise UserError("no such file or folder", where=audio, remedy="Give audio, a folder of it, or a .csv table")
    return [Recording(_as_text(path), path, _folder_of(path, speaker_from)) for path in files]


def _as_text(path: Path) -> str:
    """A path as text that UTF-8 can hold, bytes that aren't in the system's encoding written as escapes."""
    return str(path).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _is_sound_file(path: Path) -> bool:
    return path.suffix.lower() in SOUND_FILES and not path.name.startswith(".") and not path.is_dir()


def _folder_of(path: Path, speaker_from: SpeakerFrom) -> str | None:
    return _as_text(Path(path.absolute().parent.name)) if speaker_from == "folder" else None


def _from_table(table: Path, speaker_from: SpeakerFrom) -> list[Recording]:
    required = ("path", "speaker") if speaker_from == "column" else ("path",)
    found: list[Recording] = []
    turns: dict[str, list[Turn]] = {}
    for row in read_csv_rows(table, required=required, filled=("path",), any_case=(*required, *SEGMENT)):
        path = table.parent / row["path"]
        speaker = known(row["speaker"]) if speaker_from == "column" else _folder_of(path, speaker_from)
        part = segment_of(row, f"{table}, {row['path']}")
        if part is None:
            found.append(Recording(row["path"], path, speaker))
            continue
        if row["path"] not in turns:
            found.append(Recording(row["path"], path, None, ()))
        start, end = part
        turns.setdefault(row["path"], []).append(Turn(start, inf if isnan(end) else end, speaker))
    return [one if one.turns is None else replace(one, turns=tuple(turns[one.source])) for one in found]


def chunks(recordings: Iterable[Recording], max_seconds: float, max_recordings: int) -> Iterator[list[Recording]]:
    """Cut a list into batches to hold in memory together; the batches after the n-th are those of the list after it."""
    chunk: list[Recording] = []
    total = 0.0
    for recording in recordings:
        seconds = recording.seconds()
        if chunk and (total + seconds > max_seconds or len(chunk) == max_recordings):
            yield chunk
            chunk, total = [], 0.0
        chunk.append(recording)
        total += seconds
    if chunk:
        yield chunk
