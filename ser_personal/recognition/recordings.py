"""The recordings to recognise, from a file, a folder, a table or arrays."""

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ser_personal.audio import (
    BAD_AUDIO,
    HIGHEST_RATE,
    LOWEST_RATE,
    SAMPLE_RATE,
    decode,
    decode_blocks,
    fault_of,
    find_sound_files,
    read_header,
    resample,
)
from ser_personal.corpus.base import audio_path
from ser_personal.corpus.table import SEGMENT, is_table, known, read_rows
from ser_personal.errors import UserError, counted, require_one_of, require_range
from ser_personal.recognition.turns import NUMBERED, Turn, name_apart, read_turns, short_names, stem_of, turn_of
from ser_personal.scores import speaker_name
from ser_personal.types import plain_name

SpeakerFrom = Literal["folder", "column", "none"]
Channel = Literal["mix", "left", "right", "each"]

TABLE = "corpus.csv"
_SIDES = ("left", "right")


@dataclass(frozen=True, eq=False)
class Recording:
    """Audio of one speaker, or of several who take turns.

    Attributes:
        source: name of the recording in the output.
        audio: a file, or a waveform (samples,) at 16 kHz.
        speaker_id: None where unknown.
        turns: who speaks when; None where it is all of `speaker_id`.
        channel: index (from 0; `Turn.channel` counts from 1) of the file's channel to use; None mixes all.
        fault: why it can't be recognised, where that is known before it is decoded.
    """

    source: str
    audio: Path | NDArray[np.float32]
    speaker_id: str | None = None
    turns: tuple[Turn, ...] | None = None
    channel: int | None = None
    fault: UserError | None = None

    def __post_init__(self) -> None:
        """Spell names in one way, wherever they come from; `unknown` is nobody's."""
        object.__setattr__(self, "speaker_id", known(plain_name(speaker_name(self.speaker_id) or "")))
        if self.turns is not None:
            turns = (one._replace(speaker_id=known(plain_name(one.speaker_id or ""))) for one in self.turns)
            object.__setattr__(self, "turns", tuple(turns))

    @property
    def speaker_ids(self) -> set[str | None]:
        """Who speaks in it."""
        return {self.speaker_id} if self.turns is None else {turn.speaker_id for turn in self.turns}

    def load(self) -> NDArray[np.float32]:
        """Decode it, -> (samples,), 16 kHz; what is too short, silent or no sound is refused."""
        waveform = decode(self.audio, channel=self.channel) if isinstance(self.audio, Path) else self.audio
        if wrong := fault_of(waveform):
            raise UserError(wrong, remedy=BAD_AUDIO)
        return waveform

    def blocks(self, num_samples: int) -> Iterator[NDArray[np.float32]]:
        """Decode a file in blocks of at most `num_samples`, a waveform in one; errors are those of `load`."""
        if isinstance(self.audio, Path):
            return decode_blocks(self.audio, num_samples, self.channel)
        return iter([self.load()])

    def seconds(self) -> float:
        """Duration by the file's header, 0 where it can't be read."""
        try:
            return self.num_samples() / SAMPLE_RATE
        except UserError:
            return 0.0

    def num_samples(self) -> int:
        """Samples at 16 kHz, of a file by its header."""
        return read_header(self.audio).num_samples if isinstance(self.audio, Path) else len(self.audio)


def with_turns(
    recordings: Sequence[Recording], segments: Path, *, named: bool, each_channel: bool = False
) -> list[Recording]:
    """The recordings with the turns that `read_turns` finds for their paths, without speakers unless `named`.

    Turns go to the recording whose path ends in the name they give. A recording gets a fault where there are no turns
    of it, where another has its name, and where its turns are on several channels without `each_channel`. Turns without
    a recording make one with a fault.
    """
    if any(recording.turns is not None for recording in recordings):
        remedy = "Leave its columns start and end out, or the segments"
        raise UserError("the table has segments of its own", where=segments, remedy=remedy)
    turns = read_turns(segments)
    of_stem = defaultdict(list)
    for name in turns:
        of_stem[stem_of(name)].append(PurePosixPath(name))
    names = [_name_of(recording, of_stem) for recording in recordings]
    count = Counter(names)
    found = []
    for name, recording in zip(names, recordings, strict=True):
        own = turns.get(name, ())
        on = sorted({turn.channel for turn in own if turn.channel is not None})
        fault = None
        if not name:
            remedy = "Leave this recording out, or name its turns after it"
            fault = UserError(f"has no turns in {segments}", remedy=remedy)
        elif count[name] > 1:
            what = f"shares the name {name}, used in {segments}, with another recording"
            fault = UserError(what, remedy=f"Call it {'/'.join(Path(recording.source).parts[-2:])} there")
        elif len(on) > 1 and not each_channel:
            remedy = "Give --channel each, where the recording has these channels"
            fault = UserError(f"has turns on channels {', '.join(map(str, on))}", remedy=remedy)
        own = own if named else tuple(turn._replace(speaker_id=None) for turn in own)
        found.append(replace(recording, speaker_id=None, turns=own, fault=fault))
    what = f"{segments} has turns for it, but there is no such recording"
    remedy = "Give them the name of their recording's file, without extension (RTTM: second column), or leave them out"
    missing = UserError(what, remedy=remedy)
    return found + [Recording(name, Path(name), fault=missing) for name in sorted(turns.keys() - count.keys())]


def _name_of(recording: Recording, of_stem: Mapping[str, Sequence[PurePosixPath]]) -> str:
    """The longest name that a recording's path ends in, whatever the extension, "" where there is none."""
    audio = Path(recording.audio if isinstance(recording.audio, Path) else recording.source).absolute()
    path = PurePosixPath(plain_name(Path(os.path.normpath(audio)).as_posix()))
    names = of_stem.get(stem_of(path.name), ())
    fitting = [name for name in names if path.with_name(name.name).parts[-len(name.parts) :] == name.parts]
    longest = max(fitting, key=lambda name: (len(name.parts), name.name == path.name), default="")
    return str(longest)


def of_channels(recordings: Sequence[Recording], channel: Channel, *, named: bool = True) -> list[Recording]:
    """The recordings by one of their channels, or each channel as a recording of its own.

    Where each channel is taken and no turns name speakers, each is a speaker: `call/left` and `call/right`, or
    `call/1`, `call/2` and so on where there are more than two; nameless unless `named`.
    """
    require_one_of("channel", channel, Channel)
    if channel == "mix":
        return list(recordings)
    if not all(isinstance(recording.audio, Path) for recording in recordings):
        raise UserError("a waveform has one channel", where=f"channel {channel}", remedy="Give files, or leave it out")
    if channel != "each":
        return [replace(recording, channel=_SIDES.index(channel)) for recording in recordings]
    names = short_names(recording.source for recording in recordings)
    found: list[Recording] = []
    for recording in recordings:
        try:
            found += _each_channel(recording, names[recording.source] if named else None)
        except UserError as error:
            found.append(replace(recording, fault=error))
    return found


def _each_channel(recording: Recording, name: str | None) -> list[Recording]:
    if recording.fault is not None:
        raise recording.fault
    channels = read_header(Path(str(recording.audio))).channels
    if channels == 1:
        remedy = "Leave --channel out, or leave this recording out"
        raise UserError("has one channel (--channel each takes several)", remedy=remedy)
    if recording.turns is None:
        sides = _SIDES if channels == 2 else [f"{number}" for number in range(1, channels + 1)]
        speakers = [None if name is None else f"{name}/{side}" for side in sides]
        return [replace(recording, channel=number, speaker_id=one) for number, one in enumerate(speakers)]
    on = defaultdict(list)
    for turn in recording.turns:
        on[turn.channel].append(turn)
    if len(on) == 1 or not on.keys() <= {*range(1, channels + 1)}:
        what = f"has turns that aren't on its channels 1 to {channels}, but on {', '.join(map(str, on))}"
        raise UserError(what, remedy="Give RTTM, whose third column is the channel, or another --channel")
    return [replace(recording, channel=n, turns=tuple(on[n + 1])) for n in range(channels) if on[n + 1]]


def recordings_of(
    audio: Any,
    speaker_ids: str | Sequence[str | None] | None = None,
    segments: str | Path | Sequence[Any] | None = None,
    *,
    sample_rate: int = SAMPLE_RATE,
    channel: Channel = "mix",
) -> list[Recording]:
    """Recordings of what a Python user passes to `EmotionRecognizer.predict`."""
    each = channel == "each"
    if speaker_ids is not None and (each or segments is not None):
        what = f"the {'channels' if each else 'segments'} say who speaks"
        raise UserError(what, where="speaker_ids", remedy="Leave one of the two out")
    require_range("sample_rate", sample_rate, LOWEST_RATE, HIGHEST_RATE)
    # a Series or an array of numbers is a waveform, one of paths several recordings
    of_paths = getattr(getattr(audio, "dtype", None), "kind", "f") in "OUST"
    single = isinstance(audio, str | Path) or (hasattr(audio, "shape") and not of_paths)
    try:
        several = [audio] if single else list(audio)
    except TypeError as error:
        remedy = "Give a path, a waveform (samples,), or several of them"
        raise UserError(f"is a {type(audio).__name__}", where="audio", remedy=remedy) from error
    speakers: list[Any] = [speaker_ids] * len(several)
    if isinstance(speaker_ids, Iterable) and not isinstance(speaker_ids, str | bytes):
        speakers = list(speaker_ids)
    if len(speakers) != len(several):
        what = f"{counted(len(speakers), 'speaker')} for {counted(len(several), 'recording')}"
        raise UserError(what, where="speaker_ids", remedy="Give one id per recording, None where unknown")
    recordings = [
        Recording(str(one), Path(one), speaker)
        if isinstance(one, str | Path)
        else Recording(f"array {number}", _waveform(one, number, sample_rate), speaker)
        for number, (one, speaker) in enumerate(zip(several, speakers, strict=True))
    ]
    if isinstance(segments, str | Path):
        recordings = with_turns(recordings, Path(segments), named=True, each_channel=each)
    elif segments is not None:
        remedy = "Give for each recording a list of (start, end, speaker), in seconds"
        try:
            of_recordings = zip(recordings, [segments] if single else segments, strict=True)
            listed = [(one.source, dict.fromkeys(_turn(*turn) for turn in own)) for one, own in of_recordings]
        except (TypeError, ValueError) as error:
            raise UserError("isn't one list of turns per recording", where="segments", remedy=remedy) from error
        # names such as SPEAKER_00 are of one recording; 1 and A, other than in files, are given on purpose
        turns = name_apart(listed, NUMBERED) if len(listed) > 1 else [tuple(own) for _, own in listed]
        none = UserError("has no turns", remedy="Leave it out, or give some")
        recordings = [
            replace(recording, turns=own, fault=None if own else none)
            for recording, own in zip(recordings, turns, strict=True)
        ]
    return of_channels(recordings, channel)


def _turn(start: float, end: float, speaker: Any = None, channel: int | None = None) -> Turn:
    return Turn(float(start), float(end), speaker_name(speaker, "segments"), channel)


def _waveform(array: Any, number: int, sample_rate: int) -> NDArray[np.float32]:
    if hasattr(array, "detach"):
        array = array.detach().cpu().float()
    waveform = np.asarray(array)
    if waveform.ndim != 1 or waveform.dtype.kind != "f":
        what = f"is of shape {waveform.shape} and type {waveform.dtype}"
        raise UserError(what, where=f"array {number}", remedy="Give one channel of floats from -1 to 1, (samples,)")
    return resample(np.ascontiguousarray(waveform, dtype=np.float32), int(sample_rate))


def find_recordings(audio: Path, speaker_from: SpeakerFrom) -> list[Recording]:
    """List the recordings of a file, a folder (with the folders inside it) or a table, in a fixed order.

    Where speakers come from a column, a folder's table is its corpus.csv.
    """
    if speaker_from == "column" and audio.is_dir():
        return _from_table(audio / TABLE, speaker_from, anywhere=False)
    if is_table(audio):
        return _from_table(audio, speaker_from, anywhere=True)
    if speaker_from == "column":
        raise UserError("has no columns", where=audio, remedy="Give a .csv table with the columns path and speaker")
    if not audio.exists():
        raise UserError("no such file or folder", where=audio, remedy="Give audio, a folder of it, or a .csv table")
    files = find_sound_files(audio) if audio.is_dir() else [audio]
    return [Recording(_as_text(path), path, _folder_of(path, speaker_from)) for path in files]


def _as_text(path: Path) -> str:
    """A path as text that UTF-8 can hold, bytes that aren't in the system's encoding written as escapes."""
    return str(path).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _folder_of(path: Path, speaker_from: SpeakerFrom) -> str | None:
    return _as_text(Path(path.absolute().parent.name)) if speaker_from == "folder" else None


def _from_table(table: Path, speaker_from: SpeakerFrom, *, anywhere: bool) -> list[Recording]:
    required = ("path", "speaker") if speaker_from == "column" else ("path",)
    found: list[Recording] = []
    turns: dict[str, dict[tuple[Turn, str | None], Turn]] = {}
    for row in read_rows(table, required=required, filled=("path",), any_case=("path", "speaker", *SEGMENT)):
        path = audio_path(table.parent, row["path"], f"{table}, {row['path']}", anywhere=anywhere)
        speaker = known(row["speaker"]) if speaker_from == "column" else _folder_of(path, speaker_from)
        turn = turn_of(row, f"{table}, {row['path']}", speaker)
        if turn is None:
            found.append(Recording(row["path"], path, speaker))
            continue
        if row["path"] not in turns:
            found.append(Recording(row["path"], path, None, ()))
        # a turn that is listed twice counts once; speakers differ even where their names aren't used
        turns.setdefault(row["path"], {})[turn, row.get("speaker")] = turn
    return [one if one.turns is None else replace(one, turns=tuple(turns[one.source].values())) for one in found]


def chunks(recordings: Iterable[Recording], max_seconds: float, max_recordings: int) -> Iterator[list[Recording]]:
    """Cut a list into batches that fit in memory, greedily: resuming after n batches gives the same later ones."""
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
