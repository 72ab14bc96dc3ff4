"""What is given to be recognised: recordings, from a file, a folder, a table, or arrays."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ser_personal.audio import NO_SOUND, SAMPLE_RATE, WINDOW, decode, is_sound, num_samples_of
from ser_personal.corpus.table import known, read_csv_rows
from ser_personal.errors import UserError
from ser_personal.recognition.segments import is_silent

if TYPE_CHECKING:
    from numpy.typing import NDArray

SpeakerFrom = Literal["folder", "column", "none"]

TABLE = "corpus.csv"
# those that libsndfile reads, and common ones that it doesn't: to be named as failures rather than passed over
SOUND_FILES = {".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aiff", ".aif", ".aifc", ".au", ".snd", ".caf"}
SOUND_FILES |= {".w64", ".rf64", ".m4a", ".aac", ".mp4", ".wma", ".webm", ".amr"}
_REMEDY = "Leave it out, or give sound such as 16 kHz WAV or FLAC"


@dataclass(frozen=True, eq=False)
class Recording:
    """Audio of one speaker.

    Attributes:
        source: what its rows are called.
        audio: a file, or a waveform (samples,) at 16 kHz.
        speaker_id: None where unknown.
    """

    source: str
    audio: Path | NDArray[np.float32]
    speaker_id: str | None = None

    def load(self) -> NDArray[np.float32]:
        """Decode it, -> (samples,), 16 kHz.

        Raises:
            UserError: it can't be decoded, is shorter than one frame, silent, or holds values that aren't finite.
        """
        # a pipe's name may end in .wav, and opening one waits for its writer
        if isinstance(self.audio, Path) and self.audio.exists() and not self.audio.is_file():
            raise UserError("isn't a regular file", where=self.source, remedy=_REMEDY)
        try:
            waveform = decode(self.audio) if isinstance(self.audio, Path) else self.audio
        except UserError as error:
            raise UserError(error.what, where=self.source, remedy=_REMEDY) from error
        wrong = None
        if len(waveform) < WINDOW:
            wrong = f"is shorter than one frame ({len(waveform)} samples at 16 kHz, {WINDOW} needed)"
        elif not is_sound(waveform):
            wrong = NO_SOUND
        elif is_silent(waveform):
            wrong = "is silent"
        if wrong is not None:
            raise UserError(wrong, where=self.source, remedy=_REMEDY)
        return waveform

    def seconds(self) -> float:
        """Duration by the file's header, 0 where it can't be read."""
        if not isinstance(self.audio, Path):
            return len(self.audio) / SAMPLE_RATE
        if not self.audio.is_file():
            return 0.0
        try:
            return num_samples_of(self.audio) / SAMPLE_RATE
        except UserError:
            return 0.0


def recordings_of(
    audio: Any, speaker_ids: str | Sequence[str | None] | None = None, *, sample_rate: int = SAMPLE_RATE
) -> list[Recording]:
    """Take what a caller of the library gives.

    Args:
        audio: a path, a waveform (samples,), or several of either; waveforms are arrays or tensors.
        speaker_ids: of all, or one a recording.
        sample_rate: of the waveforms, Hz.

    Raises:
        UserError: a waveform isn't mono, or there isn't one speaker a recording.
    """
    given = [audio] if isinstance(audio, str | Path) or hasattr(audio, "shape") else list(audio)
    if speaker_ids is None or isinstance(speaker_ids, str):
        speakers: list[str | None] = [speaker_ids] * len(given)
    else:
        speakers = list(speaker_ids)
    if len(speakers) != len(given):
        raise UserError(
            f"{len(speakers)} speakers for {len(given)} recordings",
            where="speaker_ids",
            remedy="Give one id a recording, None where unknown",
        )
    return [
        Recording(str(one), Path(one), speaker)
        if isinstance(one, str | Path)
        else Recording(f"array {place}", _waveform(one, place, sample_rate), speaker)
        for place, (one, speaker) in enumerate(zip(given, speakers, strict=True))
    ]


def _waveform(array: Any, place: int, sample_rate: int) -> NDArray[np.float32]:
    from ser_personal.audio import resample

    if hasattr(array, "detach"):
        array = array.detach().cpu().numpy()
    waveform = np.asarray(array)
    if waveform.ndim != 1 or waveform.dtype.kind != "f":
        raise UserError(
            f"is of shape {waveform.shape} and type {waveform.dtype}",
            where=f"array {place}",
            remedy="Give one channel of floats from -1 to 1, (samples,)",
        )
    waveform = np.ascontiguousarray(waveform, dtype=np.float32)
    return waveform if sample_rate == SAMPLE_RATE else resample(waveform, sample_rate)


def find_recordings(audio: Path, speaker_from: SpeakerFrom) -> list[Recording]:
    """List the recordings of a file, a folder (with the folders inside it) or a table, in a fixed order.

    Args:
        audio: a sound file, a folder, or a .csv table with a column path (relative to the table). A folder's table
            corpus.csv is read where speakers come from a column.
        speaker_from: the name of the folder that a file lies in, the table's column speaker, or none.

    Raises:
        UserError: nothing is there, or no table where a column is asked for.
    """
    if speaker_from == "column" and audio.is_dir():
        audio = audio / TABLE
    if audio.suffix.lower() == ".csv":
        return _from_table(audio, speaker_from)
    if speaker_from == "column":
        raise UserError("has no columns", where=audio, remedy="Give a .csv table with the columns path and speaker")
    if audio.is_dir():
        files = sorted(path for path in audio.rglob("*") if _is_sound(path))
        if not files:
            raise UserError("holds no sound file", where=audio, remedy="Give a folder with wav, flac, ogg or mp3 files")
    elif audio.exists():
        files = [audio]
    else:
        raise UserError("no such file or folder", where=audio, remedy="Give audio, a folder of it, or a .csv table")
    return [Recording(printable(path), path, _folder_of(path, speaker_from)) for path in files]


def printable(path: Path) -> str:
    """A path as text that UTF-8 can hold, bytes that aren't in the system's encoding written as escapes."""
    return str(path).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _is_sound(path: Path) -> bool:
    return path.suffix.lower() in SOUND_FILES and not path.name.startswith(".") and not path.is_dir()


def _folder_of(path: Path, speaker_from: SpeakerFrom) -> str | None:
    return printable(Path(path.absolute().parent.name)) if speaker_from == "folder" else None


def _from_table(table: Path, speaker_from: SpeakerFrom) -> list[Recording]:
    wanted = ("path", "speaker") if speaker_from == "column" else ("path",)
    recordings = []
    for row in read_csv_rows(table, required=wanted, filled=("path",)):
        path = table.parent / row["path"]
        speaker = known(row["speaker"]) if speaker_from == "column" else _folder_of(path, speaker_from)
        recordings.append(Recording(row["path"], path, speaker))
    return recordings


def chunks(recordings: Iterable[Recording], max_seconds: float, max_recordings: int) -> Iterable[list[Recording]]:
    """Cut a list into runs of recordings to hold in memory together; the same cuts from whichever cut on."""
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
