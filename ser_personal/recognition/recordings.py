"""The recordings to recognise, from a file, a folder, a table or arrays."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import nan
from numbers import Real
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ser_personal.audio import (
    BAD_AUDIO,
    CANCEL,
    HIGHEST_RATE,
    LOWEST_RATE,
    NO_SOUND,
    SAMPLE_RATE,
    VOICES,
    decode,
    decode_blocks,
    fault_of,
    find_sound_files,
    is_sound,
    read_header,
    resample,
)
from ser_personal.corpus.base import audio_path
from ser_personal.corpus.table import SEGMENT, is_table, known, read_rows
from ser_personal.errors import UserError, counted, require_one_of
from ser_personal.recognition.turns import (
    NUMBERED,
    Turn,
    Turns,
    check_turns,
    name_apart,
    note_repeats,
    read_turns,
    short_names,
    stem_of,
    turn_of,
    without_repeats,
)
from ser_personal.scores import speaker_name
from ser_personal.types import plain_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

SpeakerFrom = Literal["folder", "column", "none"]
Channel = Literal["mix", "left", "right", "each"]

TABLE = "corpus.csv"
_REMEDY = "Leave it out, or give sound such as 16 kHz WAV or FLAC"
_SIDES = ("left", "right")
_HINTS = {CANCEL: "--channel left takes one", VOICES: "--channel each takes them for a speaker each"}


@dataclass(frozen=True, eq=False)
class Recording:
    """Audio of one speaker, or of several who take turns.

    Attributes:
        source: name of the recording in the output.
        audio: a file, or a waveform (samples,) at 16 kHz.
        speaker_id: None where unknown.
        turns: who speaks when, or what is wrong with the segments; None where it is all of `speaker_id`.
        channel: index (from 0; `Turn.channel` counts from 1) of the file's channel to use; None mixes all.
    """

    source: str
    audio: Path | NDArray[np.float32]
    speaker_id: str | None = None
    turns: Turns | None = None
    channel: int | None = None

    def __post_init__(self) -> None:
        """Spell names in one way, wherever they come from; `unknown` is nobody's."""
        object.__setattr__(self, "speaker_id", known(plain_name(speaker_name(self.speaker_id) or "")))
        if isinstance(self.turns, tuple):
            turns = (one._replace(speaker_id=known(plain_name(one.speaker_id or ""))) for one in self.turns)
            object.__setattr__(self, "turns", tuple(turns))

    @property
    def speaker_ids(self) -> set[str | None]:
        """Who speaks in it."""
        if isinstance(self.turns, tuple):
            return {turn.speaker_id for turn in self.turns}
        return {self.speaker_id}

    def load(self) -> NDArray[np.float32]:
        """Decode it, -> (samples,), 16 kHz; what is too short, silent or no sound is refused."""
        with self._faults() as turns:
            waveform = decode(self.audio, channel=self.channel) if isinstance(self.audio, Path) else self.audio
            if wrong := fault_of(waveform):
                raise UserError(wrong, remedy=_REMEDY)
            check_turns(turns, len(waveform))
            return waveform

    def blocks(self, num_samples: int) -> Iterator[NDArray[np.float32]]:
        """Decode it in blocks of at most `num_samples` at 16 kHz; errors are those of `load`."""
        with self._faults() as turns:
            check_turns(turns, self.num_samples())
            if isinstance(self.audio, Path):
                yield from decode_blocks(self.audio, num_samples, self.channel)
                return
            for block in np.array_split(self.audio, -(-len(self.audio) // num_samples)):
                if not is_sound(block):
                    raise UserError(NO_SOUND, remedy=_REMEDY)
                yield block

    @contextmanager
    def _faults(self) -> Iterator[tuple[Turn, ...]]:
        """Its turns, unless they are wrong; says of this recording what is wrong with its sound."""
        if isinstance(self.turns, UserError):
            raise UserError(self.turns.what, where=self.source, remedy=self.turns.remedy) from self.turns
        try:
            yield self.turns or ()
        except UserError as error:
            hints = [hint for words, hint in _HINTS.items() if error.what.endswith(words)]
            hints += [] if self.channel is None else [f"channel {self.channel + 1}"]
            what = error.what + "".join(f" ({hint})" for hint in hints)
            remedy = _REMEDY if error.remedy == BAD_AUDIO else error.remedy
            raise UserError(what, where=self.source, remedy=remedy) from error

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

    Turns go to the recording whose path ends in the name they give, or else to the only one with that stem. An
    ambiguous match becomes a recording with an error in `turns`; so do turns without a recording, recordings without
    turns, and those with turns on several channels, unless each channel is taken.
    """
    if any(recording.turns is not None for recording in recordings):
        remedy = "Leave its columns start and end out, or the segments"
        raise UserError("the table has segments of its own", where=segments, remedy=remedy)
    turns = read_turns(segments)
    found = []
    matches = _matches(turns, recordings)
    count = Counter(name for names in matches for name in names)
    for names, recording in zip(matches, recordings, strict=True):
        own: Turns = UserError(
            f"has no turns in {segments}", remedy="Leave this recording out, or name its turns after it"
        )
        if len(names) == 1:
            (name,) = names
            own = turns[name]
        elif names:
            what = f"may be {' or '.join(sorted(names)[:3])} in {segments}"
            own = UserError(what, remedy="Write its path there, or leave the others out")
        if isinstance(own, tuple):
            on = sorted({turn.channel for turn in own if turn.channel is not None})
            if count[name] > 1:
                what = f"shares the name {name}, used in {segments}, with another recording"
                own = UserError(what, remedy=f"Call it {'/'.join(Path(recording.source).parts[-2:])} there")
            elif len(on) > 1 and not each_channel:
                remedy = "Give --channel each, where the recording has these channels"
                own = UserError(f"has turns on channels {', '.join(map(str, on))}", remedy=remedy)
            elif not named:
                own = tuple(turn._replace(speaker_id=None) for turn in own)
        found.append(replace(recording, speaker_id=None, turns=own))
    what = f"{segments} has turns for it, but there is no such recording"
    remedy = "Give them the name of their recording's file, without extension (RTTM: second column), or leave them out"
    missing = UserError(what, remedy=remedy)
    return found + [Recording(name, Path(name), turns=missing) for name in sorted(turns.keys() - count.keys())]


def _matches(names: Iterable[str], recordings: Sequence[Recording]) -> list[set[str]]:
    """Of each recording the names that it may be called by in the segments, and that fit no other recording better."""
    of_stem = defaultdict(list)
    for name in names:
        of_stem[stem_of(name)].append(name)
    audio = (Path(one.audio if isinstance(one.audio, Path) else one.source).absolute() for one in recordings)
    paths = [PurePosixPath(plain_name(Path(os.path.normpath(path)).as_posix())) for path in audio]
    fits = [{name: _fit(name, path) for name in of_stem[stem_of(path.name)]} for path in paths]
    best: dict[str, tuple[int, bool]] = {}
    for fit in fits:
        best |= {name: max(fit[name], best.get(name, fit[name])) for name in fit}
    closest = [{name for name in fit if fit[name] == max(fit.values())} for fit in fits]
    return [
        set() if all(fit[name] < best[name] for name in close) else close
        for fit, close in zip(fits, closest, strict=True)
    ]


def _fit(name: str, path: PurePosixPath) -> tuple[int, bool]:
    """How many of the last parts of a path a name matches, 0 if one differs, and whether the extension matches."""
    said = PurePosixPath(name)
    parts = path.with_name(said.name).parts[-len(said.parts) :]
    return (len(parts), said.name == path.name) if parts == said.parts else (0, False)


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
            found.append(replace(recording, turns=error))
    return found


def _each_channel(recording: Recording, name: str | None) -> list[Recording]:
    if isinstance(recording.turns, UserError):
        raise recording.turns
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
    if not on.keys() <= {*range(1, channels + 1)}:
        what = f"has turns that aren't on its channels 1 to {channels} (RTTM says the channel in its third column)"
        raise UserError(what, remedy="Give RTTM, or another --channel")
    if len(on) == 1:
        raise UserError(f"has turns on channel {next(iter(on))} alone", remedy="Give --channel left, right or mix")
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
    if each and speaker_ids is not None:
        raise UserError("the channels say who speaks", where="speaker_ids", remedy="Leave it out, or name one channel")
    ids: Any = getattr(speaker_ids, "tolist", lambda: speaker_ids)()
    # a Series or an array of paths; one of numbers is a waveform
    if getattr(getattr(audio, "dtype", None), "kind", "f") in "OUST" and hasattr(audio, "tolist"):
        audio = audio.tolist()
    single = isinstance(audio, str | Path) or hasattr(audio, "shape") or _is_of_datasets(audio)
    try:
        several = [audio] if single else list(audio)
    except TypeError as error:
        remedy = "Give a path, a waveform (samples,), or several of them"
        raise UserError(f"is a {type(audio).__name__}", where="audio", remedy=remedy) from error
    if several and isinstance(several[0], Real):
        single, several = True, [several]
    one_for_all = isinstance(ids, str | bytes) or not isinstance(ids, Iterable)
    speakers = [ids] * len(several) if one_for_all else list(ids)
    if len(speakers) != len(several):
        what = f"{counted(len(speakers), 'speaker')} for {counted(len(several), 'recording')}"
        raise UserError(what, where="speaker_ids", remedy="Give one id per recording, None where unknown")
    recordings = [
        Recording(str(one), Path(one), speaker)
        if isinstance(one, str | Path)
        else Recording(f"array {number}", _waveform(one, number, sample_rate), speaker)
        for number, (one, speaker) in enumerate(zip(several, speakers, strict=True))
    ]
    if segments is not None and speaker_ids is not None:
        raise UserError("the segments say who speaks", where="speaker_ids", remedy="Leave one of the two out")
    if isinstance(segments, str | Path):
        recordings = with_turns(recordings, Path(segments), named=True, each_channel=each)
    elif segments is not None:
        remedy = "Give for each recording a list of (start, end, speaker), in seconds"
        try:
            turns: list[Turns] = [tuple(map(_turn, of_one)) for of_one in ([segments] if single else segments)]
        except (TypeError, ValueError) as error:
            what = f"isn't one list of turns per recording ({error})"
            raise UserError(what, where="segments", remedy=remedy) from error
        if len(turns) != len(recordings):
            what = f"{counted(len(turns), 'list')} of turns for {counted(len(recordings), 'recording')}"
            raise UserError(what, where="segments", remedy=remedy)
        turns = [of_one or UserError("has no turns", remedy="Leave it out, or give some") for of_one in turns]
        turns = without_repeats(turns, "segments")
        # fewer than in files: a caller of Python gives letters and numbers on purpose, and one recording any name
        if len(turns) > 1:
            turns = name_apart([(one.source, of_one) for one, of_one in zip(recordings, turns, strict=True)], NUMBERED)
        recordings = [replace(recording, turns=of_one) for recording, of_one in zip(recordings, turns, strict=True)]
    return of_channels(recordings, channel)


def _turn(turn: Any) -> Turn:
    numbers = not isinstance(turn, str | Mapping) and all(isinstance(each, Real) for each in turn[:2])
    if not numbers or not 2 <= len(turn) <= len(Turn._fields):
        raise TypeError(f"{turn!r} is no turn")
    start, end, *rest = turn
    return Turn(float(start), float(end), speaker_name(rest[0], "segments") if rest else None, *rest[1:])


def _is_of_datasets(audio: Any) -> bool:
    """Whether it is an audio column's cell: a dict, or since datasets 4.0 a decoder with the same keys."""
    return isinstance(audio, Mapping) or hasattr(audio, "get_all_samples")


def _waveform(array: Any, number: int, sample_rate: int) -> NDArray[np.float32]:
    if _is_of_datasets(array):
        try:
            array, sample_rate = array["array"], array["sampling_rate"]
        except KeyError as error:
            remedy = "Give a path, an array, or a dict of array and sampling_rate, as datasets has it"
            raise UserError(f"is a dict without {error}", where=f"array {number}", remedy=remedy) from error
    try:
        rate = float(sample_rate)
    except (TypeError, ValueError):
        rate = nan
    if not LOWEST_RATE <= rate <= HIGHEST_RATE or rate % 1:
        remedy = f"Give a whole number of Hz from {LOWEST_RATE} to {HIGHEST_RATE}"
        raise UserError(f"is of sample rate {sample_rate!r}", where=f"array {number}", remedy=remedy)
    if hasattr(array, "detach"):
        array = array.detach().cpu()
        # NumPy has no bfloat16
        array = (array.float() if array.is_floating_point() else array).numpy()
    waveform = np.asarray(array)
    if waveform.ndim != 1 or waveform.dtype.kind != "f":
        what = f"is of shape {waveform.shape} and type {waveform.dtype}"
        raise UserError(what, where=f"array {number}", remedy="Give one channel of floats from -1 to 1, (samples,)")
    waveform = np.ascontiguousarray(waveform, dtype=np.float32)
    return resample(waveform, int(rate))


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
    if audio.is_dir():
        files = find_sound_files(audio)
    elif audio.exists():
        files = [audio]
    else:
        raise UserError("no such file or folder", where=audio, remedy="Give audio, a folder of it, or a .csv table")
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
    repeated = 0
    for row in read_rows(table, required=required, filled=("path",), any_case=("path", "speaker", *SEGMENT)):
        path = table.parent / row["path"]
        if not anywhere:
            path = audio_path(table.parent, row["path"], f"{table}, {row['path']}", naming=f", or name it: {table}")
        speaker = known(row["speaker"]) if speaker_from == "column" else _folder_of(path, speaker_from)
        turn = turn_of(row, f"{table}, {row['path']}", speaker)
        if turn is None:
            found.append(Recording(row["path"], path, speaker))
            continue
        if row["path"] not in turns:
            found.append(Recording(row["path"], path, None, ()))
        # speakers differ even where their names aren't used
        of_recording, key = turns.setdefault(row["path"], {}), (turn, row.get("speaker"))
        repeated += key in of_recording
        of_recording[key] = turn
    note_repeats(repeated, table)
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
