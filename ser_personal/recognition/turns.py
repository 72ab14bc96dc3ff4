"""Who speaks when: turns of the speakers of a recording, from RTTM, Praat TextGrids, tables or Python."""

import logging
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from itertools import accumulate
from math import inf, isnan
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from ser_personal.audio import SAMPLE_RATE, SOUND_FILES
from ser_personal.corpus.splits import first_few
from ser_personal.corpus.table import Row, is_table, known, read_rows, read_text, segment
from ser_personal.errors import UserError
from ser_personal.types import plain_name

logger = logging.getLogger(__name__)

# names that a diariser gives, to somebody else in each recording
NUMBERED = re.compile(r"(?:speaker|spkr?)[ _-]?(?:\d+|[A-Z])", re.IGNORECASE)
LOCAL = re.compile(rf"{NUMBERED.pattern}|s?\d+|[A-Z]", re.IGNORECASE)
# tiers of aligners, of Praat's "To TextGrid (silences)" and of `ser annotate`, which are no speakers
_NO_SPEAKER = re.compile(
    r"silences|(?:.* - )?(?:words|phones)|(?:ort-|kan-)?mau|(?:.* )?(?:arousal|valence|dominance)", re.IGNORECASE
)
_PAUSE = frozenset({"", "silent", "silence", "sil", "<sil>", "sp", "spn", "<p:>", "#"})
# a turn may end this much after its recording, seconds: diarisers round up
_BEYOND = 0.5


class Turn(NamedTuple):
    """A stretch of one speaker in a recording, in seconds, and its channel, where that is known.

    Channels count from 1, `Recording.channel` from 0. An infinite `end` is the recording's.
    """

    start: float
    end: float
    speaker_id: str | None = None
    channel: int | None = None


def read_turns(path: Path) -> dict[str, tuple[Turn, ...]]:
    """Read RTTM, a TextGrid, a folder of either or a table: name of a recording, or its path there -> its turns.

    Names that look like a diariser's (SPEAKER_00, spk1, S1, 12, A) count as local to their recording:
    `meeting/SPEAKER_00`. Any other name is one person in all recordings. A turn that is listed twice counts once.
    """
    turns = _read_table(path) if is_table(path) else _read_files(path)
    return dict(zip(turns, name_apart(list(turns.items())), strict=True))


def name_apart(named: Sequence[tuple[str, Iterable[Turn]]], local: re.Pattern[str] = LOCAL) -> list[tuple[Turn, ...]]:
    """Turns of recordings, each once, with the recording's name before names of speakers that are `local` to it."""
    short = short_names(recording for recording, _ in named)

    def of_recording(recording: str, turn: Turn) -> Turn:
        if not local.fullmatch(plain_name(turn.speaker_id or "")):
            return turn
        return turn._replace(speaker_id=f"{short[recording]}/{turn.speaker_id}")

    return [tuple(dict.fromkeys(of_recording(name, turn) for turn in turns)) for name, turns in named]


def _read_files(path: Path) -> dict[str, list[Turn]]:
    readers = {".rttm": _read_rttm, ".textgrid": _read_textgrid}
    files = [path]
    if path.is_dir():
        inside = sorted(file for file in path.rglob("*") if file.suffix.lower() in readers)
        files = [file for file in inside if not any(part.startswith(".") for part in file.relative_to(path).parts)]
    turns: dict[str, list[Turn]] = {}
    for file in files:
        if not file.is_file() or file.suffix.lower() not in readers:
            what = "is neither .rttm, .TextGrid nor .csv" if file.exists() else "no such file or folder"
            remedy = "Give --segments an RTTM file, a TextGrid, a folder of them, or a table of start, end and speaker"
            raise UserError(what, where=file, remedy=remedy)
        try:
            of_recordings = readers[file.suffix.lower()](file)
        except UserError as error:
            if path == file:
                raise
            # others of the folder are still read
            logger.warning("%s It is left out.", error)
            continue
        for recording, found in of_recordings.items():
            folder = file.parent.relative_to(path) if path.is_dir() else Path()
            name = plain_name((folder / recording).as_posix())
            if name in turns:
                raise UserError(f"has turns of {name}, as another file has", where=file, remedy="Leave one of them out")
            turns[name] = found
    if not turns:
        raise UserError("holds no turn", where=path, remedy="Give an RTTM file, a TextGrid or a folder of them")
    return turns


def _read_rttm(path: Path) -> dict[str, list[Turn]]:
    turns: dict[str, list[Turn]] = {}
    remedy = "Write SPEAKER NAME 1 START SECONDS <NA> <NA> SPEAKER <NA> <NA>, as diarisers do"
    for line_number, line in enumerate(read_text(path).splitlines(), 1):
        fields = line.split()
        if not fields or fields[0] != "SPEAKER":
            continue
        if len(fields) > 10:
            # a recording's name with blanks; a speaker's leaves no numbers in the times' place
            fields = ["SPEAKER", " ".join(fields[1:-8]), *fields[-8:]]
        try:
            _, name, channel, start, seconds, _, _, speaker, *_ = fields
            # pyannote writes `waveform` for audio that came without a file
            name = plain_name(path.stem if name in ("<NA>", "waveform") else name)
            number = 1 if channel == "<NA>" else int(channel)
            turn = Turn(float(start), float(start) + float(seconds), speaker, number)
        except ValueError as error:
            raise UserError("isn't RTTM", where=f"{path}, line {line_number}", remedy=remedy) from error
        turns.setdefault(name, []).append(turn)
    return turns


def _read_textgrid(path: Path) -> dict[str, list[Turn]]:
    if find_spec("praatio") is None:
        raise UserError("needs the package praatio", where=path, remedy="`pip install praatio`, or give RTTM")
    from praatio.textgrid import openTextgrid
    from praatio.utilities.constants import INTERVAL_TIER
    from praatio.utilities.errors import PraatioException

    try:
        grid = openTextgrid(str(path), includeEmptyIntervals=True, reportingMode="error")
    except (PraatioException, ValueError, IndexError, KeyError, AttributeError, OSError) as error:
        raise UserError(f"isn't a whole TextGrid ({error})", where=path, remedy="Save it again in Praat") from error
    tiers = {tier.name: tier for tier in grid.tiers if tier.tierType == INTERVAL_TIER}
    # Praat fills a tier with intervals; praatio reads a file that breaks off without a word
    if any(not tier.entries or tier.entries[-1].end < grid.maxTimestamp for tier in tiers.values()):
        what = "is truncated: a tier ends before the TextGrid does"
        raise UserError(what, where=path, remedy="Save it again in Praat")
    if others := [name for name in tiers if _NO_SPEAKER.fullmatch(name.strip())]:
        logger.warning("%s: left out, as no speaker's turns: %s", path, first_few(others))
    turns = [
        Turn(float(entry.start), float(entry.end), name)
        for name, tier in tiers.items()
        for entry in tier.entries
        if name not in others and entry.label.strip().lower() not in _PAUSE
    ]
    if not turns:
        remedy = "Give one interval tier per speaker, named after the speaker"
        raise UserError("has no interval with a label in a tier of a speaker", where=path, remedy=remedy)
    return {path.stem: turns}


def _read_table(path: Path) -> dict[str, list[Turn]]:
    turns: dict[str, list[Turn]] = {}
    columns = ("start", "end", "speaker")
    for row in read_rows(path, required=columns, filled=("start",), any_case=("path", "file", *columns)):
        # of one recording where it doesn't say of which
        said = row.get("path") or row.get("file") or path.stem
        name = PurePosixPath(plain_name(said).replace("\\", "/")).as_posix()
        turn = turn_of(row, f"{path}, {row['start']}", known(row["speaker"]))
        turns.setdefault(name, []).append(turn or Turn(0, inf))
    return turns


def turn_of(row: Row, where: object, speaker_id: str | None) -> Turn | None:
    """The turn that a row of a table is, by its columns start and end; None where it is all of its recording."""
    part = segment(row, where)
    return None if part is None else Turn(part[0], inf if isnan(part[1]) else part[1], speaker_id)


def stem_of(name: str) -> str:
    """A recording's name without its folders, and without its extension where that is one of sound."""
    path = Path(name)
    return path.stem if path.suffix.lower() in SOUND_FILES else path.name


def short_names(recordings: Iterable[str]) -> dict[str, str]:
    """Name of each recording, or path to it -> its stem, or all of it where several have that stem."""
    names = set(recordings)
    count = Counter(map(stem_of, names))
    return {name: stem_of(name) if count[stem_of(name)] == 1 else name for name in names}


def check_turns(turns: Iterable[Turn], num_samples: int) -> None:
    """Refuse turns that can't be of a recording of `num_samples`."""
    seconds = num_samples / SAMPLE_RATE
    for start, end, speaker, *_ in turns:
        if not (0 <= start < seconds and start < end and (end <= seconds + _BEYOND or end == inf)):
            what = f"turn of {speaker} from {start:g} to {end:g} s isn't in the recording, 0 to {seconds:.2f} s"
            raise UserError(what, remedy="Give the segments of this recording, in seconds")


def overlap(start: int, end: int, speaker_id: str | None, turns: Sequence[Turn]) -> float:
    """Seconds from one sample to another in which somebody else speaks, too."""
    others = [turn[:2] for turn in turns if turn.speaker_id != speaker_id]
    if speaker_id is None:
        # where turns of unknown speakers overlap, two of them speak
        unknown = sorted(turn[:2] for turn in turns if turn.speaker_id is None)
        latest = accumulate((stop for _, stop in unknown), max)
        others += [(begin, min(stop, last)) for (begin, stop), last in zip(unknown[1:], latest, strict=False)]
    bounds = np.array(others, dtype=np.float64).reshape(-1, 2)
    bounds = bounds.clip(start / SAMPLE_RATE, end / SAMPLE_RATE)
    bounds = bounds[bounds[:, 0].argsort()]
    reached = np.maximum.accumulate(np.concatenate([[0.0], bounds[:, 1]]))[:-1]
    return float((bounds[:, 1] - np.maximum(bounds[:, 0], reached)).clip(min=0).sum())
