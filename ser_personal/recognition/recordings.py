"""The recordings to recognise, from a file, a folder, a table or arrays."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf, isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ser_personal.audio import SAMPLE_RATE, decode, fault_of, num_samples_of, resample
from ser_personal.corpus.table import SEGMENT, is_table, known, read_csv_rows
from ser_personal.corpus.table import segment as segment_of
from ser_personal.errors import UserError
from ser_personal.recognition.turns import Turn, Turns, check_turns, read_turns

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

SpeakerFrom = Literal["folder", "column", "none"]

TABLE = "corpus.csv"
# those that libsndfile reads, and common ones that it doesn't: to be named as failures rather than passed over
SOUND_FILES = {".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aiff", ".aif", ".aifc", ".au", ".snd", ".caf"}
SOUND_FILES |= {".w64", ".rf64", ".m4a", ".aac", ".mp4", ".wma", ".webm", ".amr"}
_REMEDY = "Leave it out, or give sound such as 16 kHz WAV or FLAC"


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
