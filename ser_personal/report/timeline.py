"""`ser report predictions.csv`: each speaker's values over time, a page for each recording, with its sound."""

import os
import shlex
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import BytesIO
from math import isfinite, isnan, nan
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np

from ser_personal.audio import SAMPLE_RATE, read_header, resample
from ser_personal.corpus.table import Row, read_number, read_rows
from ser_personal.errors import UserError, counted
from ser_personal.files import atomic_write
from ser_personal.scores import Values

TEMPLATE = Path(__file__).with_name("timeline.html.j2")
TABLES = (".csv", ".parquet")
# longer sound stays in its file, and the page small
EMBEDDED_SECONDS = 300.0
MOST_PAGES = 200
PROBABILITIES = {"low": 0.0, "high": 1.0, "ticks": [0, 0.5, 1]}
_REQUIRED = ("file", "start", "end", "speaker")
_REMEDY = "Give a table that `ser annotate` wrote, or the folder of a test run"
_BLANK = ("", "nan")
# of each attribute, in this order, and its cells that mean none; of a category its probability alone
VALUES: dict[str, tuple[str, ...]] = {"calibrated": (), "raw": (), "low": _BLANK, "high": _BLANK}
PROBABILITY = "_probability"


class Predicted(NamedTuple):
    """What was predicted of an utterance."""

    speaker: str
    start: float  # seconds
    end: float
    # (attributes, 4), `VALUES`, NaN where there is no interval; of categories the probability, then NaN
    values: Values
    overlap: float  # seconds in which others speak, too
    short: bool  # under a second


@dataclass(frozen=True, eq=False)
class Timeline:
    """A recording."""

    file: str
    attributes: tuple[str, ...]  # or categories
    categories: bool
    utterances: tuple[Predicted, ...]  # in the order of time

    @property
    def name(self) -> str:
        """Its file's name without the folder."""
        return Path(self.file).name


def write_timelines(table: Path, audio: Path | None = None, out: Path | None = None) -> list[str]:
    """Write the page of a table of `ser annotate`: of one recording, or an index of the pages in a folder beside it.

    `audio` and `out` are those of `ser report`. Returns lines that say what was written, and which sound wasn't found.
    """
    if audio is not None and not audio.is_dir():
        raise UserError("no such folder", where=f"--audio {audio}", remedy="Check the spelling of the path")
    index = table.with_name("timeline.html") if out is None else out
    if index.suffix != ".html":
        remedy = f"Write --out {shlex.quote(f'{index}.html')} instead"
        raise UserError("isn't called .html", where=f"--out {index}", remedy=remedy)
    found = read_timelines(table)
    source = quote_path(table, index)
    # another's page, which would be lost, doesn't name this table
    if index.is_file() and f'<meta name="table" content="{source}">'.encode() not in index.read_bytes():
        remedy = f"Write --out {shlex.quote(str(index.with_name(f'{table.stem}_{index.name}')))} instead"
        raise UserError(f"isn't a page of {table.name}, and would be replaced", where=index, remedy=remedy)
    if len(found) > MOST_PAGES:
        what = f"holds {len(found)} recordings, and at most {MOST_PAGES} get a page each"
        raise UserError(what, where=table, remedy="Annotate fewer at once, or cut the table")
    folders = [Path(), table.parent] if audio is None else [audio, Path(), table.parent]
    count = Counter(timeline.name for timeline in found)
    named: dict[str, Any] = {"table": table.name, "source": source}
    several = len(found) > 1
    lines, listed = [], []
    for number, timeline in enumerate(found, 1):
        name = "".join(sign if sign.isalnum() or sign in "-_" else "_" for sign in Path(timeline.name).stem)
        page = index.with_suffix("") / f"{number:03}_{name[:80]}.html" if several else index
        paths = [folder / timeline.file for folder in folders]
        # moved from elsewhere; of two recordings of one name it may be either
        paths += [audio / timeline.name] if audio is not None and count[timeline.name] == 1 else []
        path = next(filter(Path.is_file, paths), None)
        missing = "", 0.0, "no such file; --audio FOLDER gives the folder of these files"
        sound, seconds, fault = missing if path is None else find_sound(path, page)
        lines += [f"no sound of {timeline.file}: {fault}"] if fault else []
        shown = describe(timeline, seconds)
        back = quote(index.name) if several else ""
        atomic_write(page, render(TEMPLATE, timeline=shown, sound=sound, index=back, **named))
        listed.append((quote_path(page, index), shown))
    if several:
        atomic_write(index, render(TEMPLATE, timelines=listed, **named))
    return [*lines, f"written: {index}{f' and {len(found)} pages in {index.stem}/' if several else ''}"]


def quote_path(path: Path, page: Path) -> str:
    """A path as a page refers to it."""
    return quote(Path(os.path.relpath(path, page.parent)).as_posix())


def render(template: Path, filters: Mapping[str, Callable[..., Any]] | None = None, /, **content: Any) -> bytes:
    """A page, of a template that may include what lies beside it or in this folder."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    files = FileSystemLoader([template.parent, TEMPLATE.parent])
    environment = Environment(
        loader=files, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"clock": clock, "counted": counted, **(filters or {})}
    page = environment.get_template(template.name).render({"timelines": None, **content})
    return page.encode("utf-8", "backslashreplace")


def clock(seconds: float) -> str:
    """Seconds as m:ss or h:mm:ss."""
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"


def find_sound(path: Path, page: Path) -> tuple[str, float, str]:
    """What a page plays, its seconds, and why it plays nothing: a data URI of a short recording, else a relative path.

    Embedded sound is FLAC, mono at 16 kHz, which all browsers play.
    """
    import soundfile

    try:
        seconds = read_header(path).num_samples / SAMPLE_RATE
        if seconds > EMBEDDED_SECONDS:
            return quote_path(path, page), seconds, ""
        waveform, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except (UserError, soundfile.LibsndfileError) as error:
        return "", 0.0, error.what if isinstance(error, UserError) else str(error)
    content = BytesIO()
    mono = waveform.mean(axis=1)
    soundfile.write(content, mono if rate == SAMPLE_RATE else resample(mono, rate), SAMPLE_RATE, format="FLAC")
    return f"data:audio/flac;base64,{b64encode(content.getvalue()).decode()}", seconds, ""


def describe(timeline: Timeline, seconds: float) -> dict[str, Any]:
    """What a page shows of a recording of so many seconds, 0 where that is unknown."""
    seconds = max(seconds, *(one.end for one in timeline.utterances))
    values = np.array([one.values for one in timeline.utterances])
    plane = [timeline.attributes.index(name) for name in ("arousal", "valence") if name in timeline.attributes]
    # in the order in which they first speak
    rows_of: dict[str, list[int]] = {}
    for row, one in enumerate(timeline.utterances):
        rows_of.setdefault(one.speaker, []).append(row)
    speakers = list(rows_of)
    data: dict[str, Any] = {
        "seconds": round(seconds, 3),
        "attributes": timeline.attributes,
        "speakers": speakers,
        "categories": timeline.categories,
        "axes": [PROBABILITIES if timeline.categories else axis(column) for column in values.swapaxes(0, 1)],
        "intervals": bool(np.isfinite(values[:, :, 2:]).all(axis=2).any()),
        "plane": axis(values[:, plane, 0]) if len(plane) == 2 else None,
        "rows": [
            [
                speakers.index(one.speaker),
                *(round(time, 3) for time in (one.start, one.end, one.overlap)),
                int(one.short),
                *(round(value, 3) if isfinite(value) else None for value in one.values.ravel().tolist()),
            ]
            for one in timeline.utterances
        ],
    }
    people = [_person(timeline, values, speaker, rows) for speaker, rows in rows_of.items()]
    return {"name": timeline.name, "data": data, "people": people}


def axis(values: Values) -> dict[str, Any]:
    """An axis's ends and round ticks, for values of any shape."""
    from matplotlib.ticker import MaxNLocator

    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    margin = max(0.04 * (high - low), 0.05)
    low, high = low - margin, high + margin
    ticks = MaxNLocator(4, steps=[1, 2, 5, 10]).tick_values(low, high)
    return {"low": low, "high": high, "ticks": [round(float(tick), 6) for tick in ticks if low <= tick <= high]}


def _person(timeline: Timeline, values: Values, name: str, rows: list[int]) -> dict[str, Any]:
    """How much a speaker says in these rows, and of each attribute mean, deviation and extremes (short ones aside)."""
    own = [timeline.utterances[row] for row in rows]
    steady = [row for row in rows if not timeline.utterances[row].short] or rows
    attributes = []
    for column, attribute in enumerate(timeline.attributes):
        calibrated, raw = values[rows, column, :2].T
        among = values[steady, column, 0]
        extremes = {"highest": steady[among.argmax()], "lowest": steady[among.argmin()]}
        attributes.append(
            {
                "attribute": attribute,
                "mean": calibrated.mean(),
                "spread": calibrated.std(),
                "raw_mean": raw.mean(),
                "raw_spread": raw.std(),
                "moments": {
                    extreme: {"row": row, "value": values[row, column, 0], "start": timeline.utterances[row].start}
                    for extreme, row in extremes.items()
                },
            }
        )
    seconds = sum(one.end - one.start for one in own)
    return {"name": name, "utterances": len(own), "seconds": seconds, "attributes": attributes}


def read_timelines(path: Path) -> list[Timeline]:
    """Read a table of `ser annotate`: its recordings in the order of their first rows."""
    rows = read_rows(path, _REQUIRED, filled=_REQUIRED[:3])
    attributes = tuple(name.removesuffix("_calibrated") for name in rows[0] if name.endswith("_calibrated"))
    categories = () if attributes else tuple(name for name in rows[0] if name.endswith(PROBABILITY))
    if not (attributes or categories):
        raise UserError("no column ATTRIBUTE_calibrated", where=path, remedy=_REMEDY)

    def predicted(row: Row, where: str) -> Predicted:
        start, end = (read_number(row, name, where, _REMEDY) for name in ("start", "end"))
        if not 0 <= start < end:
            raise UserError(f"lasts from {start:g} to {end:g} s", where=where, remedy=_REMEDY)
        values = [
            [read_number(row, f"{attribute}_{name}", where, _REMEDY, missing=blank) for name, blank in VALUES.items()]
            for attribute in attributes
        ] or [[read_number(row, category, where, _REMEDY), nan, nan, nan] for category in categories]
        overlap, short = (read_number(row, name, where, _REMEDY, missing=_BLANK) for name in ("overlap", "short"))
        speaker = row["speaker"] or "speaker unknown"
        return Predicted(speaker, start, end, np.array(values), 0.0 if isnan(overlap) else overlap, short > 0)

    of_file: dict[str, list[Predicted]] = {}
    for number, row in enumerate(rows, 1):
        of_file.setdefault(row["file"], []).append(predicted(row, f"{path}, row {number}"))
    shown = attributes or tuple(category.removesuffix(PROBABILITY) for category in categories)
    return [
        Timeline(file, shown, bool(categories), tuple(sorted(own, key=lambda one: (one.start, one.end))))
        for file, own in of_file.items()
    ]
