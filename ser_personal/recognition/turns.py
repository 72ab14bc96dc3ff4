"""Who speaks when: turns of the speakers of a recording, from RTTM, Praat TextGrids, tables or Python."""

from __future__ import annotations

import re
from importlib.util import find_spec
from math import inf, isfinite, isnan, nan
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ser_personal.audio import SAMPLE_RATE
from ser_personal.corpus.table import is_table, known, read_csv_rows, read_text, segment
from ser_personal.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

# names that a diariser gives, to somebody else in each recording
_LOCAL = re.compile(r"(?:speaker|spkr?)[ _-]?(?:\d+|[A-Z])|s?\d+|[A-Z]", re.IGNORECASE)
# of RTTM, other names of its channels 1 and 2
_CHANNELS = {"<NA>": "1", "A": "1", "B": "2"}
# a turn may end this much after its recording, seconds: diarisers round up
_BEYOND = 0.5
_REMEDY = "Give the segments of this recording, in seconds"


class Turn(NamedTuple):
    """A stretch of one speaker in a recording, in seconds, and its channel from 1, where that is known.

    An infinite `end` is the recording's.
    """

    start: float
    end: float
    speaker_id: str | None = None
    channel: int | None = None


# of one recording, or what is wrong with them
Turns = tuple[Turn, ...] | UserError


def read_turns(path: Path) -> dict[str, Turns]:
    """Read RTTM, a TextGrid, a folder of either or a table: stem of a recording's name -> its turns.

    Speakers whom a diariser numbered (SPEAKER_00) are of one recording: `meeting/SPEAKER_00`. Other names are people's,
    the same person in every recording.
    """
    if is_table(path):
        return _read_table(path)
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    readers = {".rttm": _read_rttm, ".textgrid": _read_textgrid}
    turns: dict[str, Turns] = {}
    of_file: dict[str, Turns]
    for file in files:
        if path.is_dir() and file.suffix.lower() not in readers:
            continue
        if not file.is_file():
            raise UserError("no such file or folder", where=file, remedy="Give --segments an RTTM file or a TextGrid")
        if file.suffix.lower() not in readers:
            remedy = "Give an RTTM file, a TextGrid, a folder of them, or a table with start, end and speaker"
            raise UserError("is neither .rttm, .TextGrid nor .csv", where=file, remedy=remedy)
        try:
            of_file = readers[file.suffix.lower()](file)
        except UserError as error:
            # of one recording among others
            if not path.is_dir():
                raise
            of_file = {file.stem: UserError(f"{error.what} in {error.where}", remedy=error.remedy)}
        for stem, found in of_file.items():
            if stem in turns:
                raise UserError(f"has turns of {stem}, as another file has", where=file, remedy="Leave one of them out")
            turns[stem] = found
    if not turns:
        raise UserError("holds no turn", where=path, remedy="Give an RTTM file, a TextGrid or a folder of them")
    return turns


def _read_rttm(path: Path) -> dict[str, Turns]:
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
            # of audio without a file, pyannote knows no name
            name = path.stem if name in ("<NA>", "waveform") else name
            number = int(_CHANNELS.get(channel, channel))
            turn = Turn(float(start), float(start) + float(seconds), _speaker(name, speaker), number)
        except ValueError as error:
            raise UserError("isn't RTTM", where=f"{path}, line {line_number}", remedy=remedy) from error
        turns.setdefault(name, []).append(turn)
    return {name: tuple(found) for name, found in turns.items()}


def _read_textgrid(path: Path) -> dict[str, Turns]:
    if find_spec("praatio") is None:
        raise UserError("needs the package praatio", where=path, remedy="`pip install praatio`, or give RTTM")
    from praatio.textgrid import openTextgrid
    from praatio.utilities.constants import INTERVAL_TIER
    from praatio.utilities.errors import PraatioException

    try:
        grid = openTextgrid(str(path), includeEmptyIntervals=True, reportingMode="error")
    except (PraatioException, ValueError, IndexError, KeyError, AttributeError, OSError) as error:
        reason = " ".join(str(error).split())
        return {path.stem: UserError(f"isn't a whole TextGrid ({reason})", where=path, remedy="Save it again by Praat")}
    tiers = [tier for tier in grid.tiers if tier.tierType == INTERVAL_TIER]
    # Praat fills a tier with intervals; praatio reads a file that breaks off without a word
    if any(not tier.entries or tier.entries[-1].end < grid.maxTimestamp for tier in tiers):
        return {path.stem: UserError("breaks off: a tier ends before it", where=path, remedy="Save it again by Praat")}
    turns = tuple(
        Turn(float(entry.start), float(entry.end), _speaker(path.stem, tier.name))
        for tier in tiers
        for entry in tier.entries
        if entry.label.strip()
    )
    what = "no interval of its tiers has a label" if tiers else "has points alone, no tier of intervals"
    return {path.stem: turns or UserError(what, where=path, remedy="Give a tier of intervals for each speaker")}


def _read_table(path: Path) -> dict[str, Turns]:
    turns: dict[str, list[Turn]] = {}
    columns = ("start", "end", "speaker")
    for row in read_csv_rows(path, required=columns, filled=("start",), any_case=("path", "file", *columns)):
        # of one recording where it doesn't say of which
        name = Path(row.get("path") or row.get("file") or path).stem
        start, end = segment(row, f"{path}, {row['start']}") or (0.0, nan)
        speaker = known(row["speaker"])
        turns.setdefault(name, []).append(Turn(start, inf if isnan(end) else end, speaker and _speaker(name, speaker)))
    return {name: tuple(found) for name, found in turns.items()}


def _speaker(recording: str, name: str) -> str:
    return f"{recording}/{name}" if _LOCAL.fullmatch(name) else name


def check_turns(turns: Iterable[Turn], num_samples: int) -> None:
    """Refuse turns that can't be of a recording of `num_samples`."""
    seconds = num_samples / SAMPLE_RATE
    for start, end, speaker, *_ in turns:
        which = f"turn of {speaker} from {start:g} to {end:g} s"
        if not isfinite(start) or start < 0 or not end > start:
            raise UserError(f"{which} lasts no time", remedy=_REMEDY)
        if start >= seconds or (end > seconds + _BEYOND and end < inf):
            raise UserError(f"{which} is past the end of the recording, {seconds:.2f} s", remedy=_REMEDY)


def overlap(start: int, end: int, speaker_id: str | None, turns: Sequence[Turn]) -> float:
    """Seconds from one sample to another in which somebody else speaks, too."""
    bounds = np.array([turn[:2] for turn in turns if turn.speaker_id != speaker_id], dtype=np.float64).reshape(-1, 2)
    bounds = bounds.clip(start / SAMPLE_RATE, end / SAMPLE_RATE)
    bounds = bounds[bounds[:, 0].argsort()]
    reached = np.maximum.accumulate(np.concatenate([[0.0], bounds[:, 1]]))[:-1]
    return float((bounds[:, 1] - np.maximum(bounds[:, 0], reached)).clip(min=0).sum())
