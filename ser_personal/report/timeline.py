"""`ser report predictions.csv`: each speaker's values over time, a page for each recording, with its sound.

Recordings of one utterance each share a page, one after the other.
"""

from __future__ import annotations

import os
import re
import shlex
from base64 import b64encode
from collections import Counter
from dataclasses import dataclass, replace
from io import BytesIO
from math import isfinite, isnan, nan
from pathlib import Path, PureWindowsPath
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote, unquote

import numpy as np

from ser_personal.audio import SAMPLE_RATE, read_header, resample
from ser_personal.corpus.table import read_number, read_rows
from ser_personal.errors import UserError, counted
from ser_personal.files import atomic_write

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    Row = dict[str, str]

TEMPLATE = Path(__file__).with_name("timeline.html.j2")
TABLES = (".csv", ".parquet")
# longer sound stays in its file, and the page small
EMBEDDED_SECONDS = 300.0
MOST_PAGES = 200
PROBABILITIES = {"low": 0.0, "high": 1.0, "ticks": [0, 0.5, 1]}
_REQUIRED = ("file", "start", "end", "speaker")
_REMEDY = "Give a table that `ser annotate` wrote"
_BLANK = ("", "nan")
# of each attribute, in this order; of a category its probability alone
VALUES = ("calibrated", "raw", "low", "high")
PROBABILITY = "_probability"


class Predicted(NamedTuple):
    """What was predicted of an utterance.

    Attributes:
        speaker: None where unknown.
        start: seconds.
        end: seconds.
        values: (attributes, 4), calibrated, raw, low and high; NaN where there is no interval. Of categories, the
            first is the probability, the others are NaN.
        overlap: seconds in which others speak, too.
        short: whether it lasts under a second.
    """

    speaker: str | None
    start: float
    end: float
    values: NDArray[np.float64]
    overlap: float
    short: bool


@dataclass(frozen=True, eq=False)
class Timeline:
    """A recording, or recordings of one utterance each, one after the other.

    Attributes:
        file: of the recording, or what several are called.
        attributes: that were predicted, or categories.
        categories: whether `attributes` are such.
        utterances: in the order of time.
        files: of several recordings, each utterance's file and the second at which it begins.
    """

    file: str
    attributes: tuple[str, ...]
    categories: bool
    utterances: tuple[Predicted, ...]
    files: tuple[tuple[str, float], ...] = ()

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
    refuse_page_of_another(table, index, source)
    single = [timeline for timeline in found if len(timeline.utterances) == 1]
    groups = [[timeline] for timeline in found if len(timeline.utterances) > 1 or len(single) == 1]
    groups += [single] if len(single) > 1 else []
    if len(groups) > MOST_PAGES:
        what = f"holds {len(groups)} recordings of several utterances, and at most {MOST_PAGES} get a page each"
        raise UserError(what, where=table, remedy="Annotate fewer at once, or cut the table")
    located = locate([timeline.file for timeline in found], table, audio)
    several = len(groups) > 1
    lines, listed = [], []
    for number, group in enumerate(groups, 1):
        name = group[0].name if len(group) == 1 else "single_utterances"
        name = "".join(sign if sign.isalnum() or sign in "-_" else "_" for sign in Path(name).stem)
        page = index.with_suffix("") / f"{number:03}_{name[:80]}.html" if several else index
        files = [Path(timeline.file) for timeline in group]
        paths = [located[timeline.file] for timeline in group]
        linked = [find_sound(path, page, embed=False) for path in paths]
        embed = sum(seconds for _, seconds, _ in linked) <= EMBEDDED_SECONDS
        playable = [find_sound(path, page) for path in paths] if embed else linked
        sounds, seconds, faults = zip(*playable, strict=True)
        if silent := [place for place, fault in enumerate(faults) if fault]:
            others = f" and {counted(len(silent) - 1, 'other')}" if len(silent) > 1 else ""
            lines.append(f"no sound of {files[silent[0]]}{others}: {faults[silent[0]]}")
        timeline = group[0] if len(group) == 1 else one_after_the_other(group, seconds)
        shown = describe(timeline, sum(seconds))
        named = {"table": table.name, "source": source, "index": quote(index.name) if several else ""}
        atomic_write(page, render(TEMPLATE, timeline=shown, sounds=sounds, **named))
        listed.append((quote_path(page, index), shown))
    if several:
        named = {"table": table.name, "source": source}
        atomic_write(index, render(TEMPLATE, timelines=listed, recordings=len(found), **named))
    return [*lines, f"written: {index}{f' and {len(groups)} pages in {index.stem}/' if several else ''}"]


def locate(files: Sequence[str], table: Path, audio: Path | None) -> dict[str, Path | str]:
    """Where each file of a table lies, or why there is no sound of it.

    Files whose whole path isn't found are looked for in `audio` by the longest ending of their path; a file found so
    for two recordings is taken for neither.
    """
    folders = [Path(), table.parent] if audio is None else [audio, Path(), table.parent]
    found: dict[str, Path | str] = {}
    guesses: dict[str, Path] = {}
    for file in files:
        whole = (folder / file for folder in folders)
        windows = PureWindowsPath(file)
        parts = windows.relative_to(windows.anchor).parts
        ends = [parts[start:] for start in range(len(parts)) if ".." not in parts[start:]]
        endings = [] if audio is None else [audio.joinpath(*end) for end in ends]
        if path := next(filter(Path.is_file, whole), None):
            found[file] = path
        elif path := next(filter(Path.is_file, endings), None):
            guesses[file] = path
        elif audio is None:
            found[file] = "no such file here; --audio FOLDER gives the folder of the table's files"
        else:
            found[file] = f"no such file here, nor in --audio {audio}"
    count = Counter(Path(path).resolve() for path in [*guesses.values(), *found.values()])
    for file, path in guesses.items():
        alike = f"{path} may be of several recordings; give --audio the folder that holds theirs"
        found[file] = path if count[path.resolve()] == 1 else alike
    return found


def quote_path(path: Path, page: Path) -> str:
    """A path as a page refers to it."""
    return quote(Path(os.path.relpath(path, page.parent)).as_posix())


def refuse_page_of_another(table: Path, page: Path, source: str) -> None:
    """Refuse to replace a file that isn't the page of this table, whose path its page holds as `source`."""
    if not page.is_file():
        return
    with page.open("rb") as file:
        held = re.search(rb'<meta name="table" content="([^"]*)">', file.read(2048))
    if held is None or held[1].decode() != source:
        of = f"isn't a page of {table.name}" if held is None else f"is the page of {unquote(held[1].decode())}"
        other = page.with_name(f"{table.stem}_{page.name}")
        remedy = f"Write --out {shlex.quote(str(other))} instead"
        raise UserError(f"{of}, and would be replaced", where=page, remedy=remedy)


def one_after_the_other(single: Sequence[Timeline], seconds: Sequence[float]) -> Timeline:
    """Recordings of one utterance each, of so many seconds or 0 where that is unknown, as one timeline."""
    utterances = [one.utterances[0] for one in single]
    lengths = [max(length, one.end) for one, length in zip(utterances, seconds, strict=True)]
    begins = np.cumsum([0.0, *lengths])[:-1].tolist()
    names = [one.file for one in single]
    common = os.path.commonprefix(names).rfind("/") + 1  # noqa: RUF071  of paths up to a slash
    moved = [one._replace(start=at + one.start, end=at + one.end) for one, at in zip(utterances, begins, strict=True)]
    return replace(
        single[0],
        file=f"{len(single)} single utterances",
        utterances=tuple(moved),
        files=tuple((name[common:], begin) for name, begin in zip(names, begins, strict=True)),
    )


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


def find_sound(path: Path | str, page: Path, *, embed: bool = True) -> tuple[str, float, str]:
    """What a page plays, its seconds, and why it plays nothing: a data URI of a short recording, else a relative path.

    A text in the place of the path is the reason. Embedded sound is FLAC, mono at 16 kHz, which all browsers play.
    """
    import soundfile

    if isinstance(path, str):
        return "", 0.0, path
    try:
        seconds = read_header(path).num_samples / SAMPLE_RATE
        if not embed or seconds > EMBEDDED_SECONDS:
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
    speakers = list(dict.fromkeys(one.speaker for one in timeline.utterances))
    data: dict[str, Any] = {
        "seconds": round(seconds, 3),
        "attributes": timeline.attributes,
        "speakers": [named(speaker) for speaker in speakers],
        "categories": timeline.categories,
        "files": [(name, round(begin, 3)) for name, begin in timeline.files],
        "axes": [
            PROBABILITIES if timeline.categories else axis(values[:, number])
            for number in range(len(timeline.attributes))
        ],
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
    return {"name": timeline.name, "data": data, "people": people(timeline)}


def named(speaker: str | None) -> str:
    """A speaker's name on the page."""
    return "speaker unknown" if speaker is None else speaker


def axis(values: NDArray[np.float64]) -> dict[str, Any]:
    """An axis's ends and round ticks, for values of any shape."""
    from matplotlib.ticker import MaxNLocator

    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    margin = max(0.04 * (high - low), 0.05)
    low, high = low - margin, high + margin
    ticks = MaxNLocator(4, steps=[1, 2, 5, 10]).tick_values(low, high)
    return {"low": low, "high": high, "ticks": [round(float(tick), 6) for tick in ticks if low <= tick <= high]}


def people(timeline: Timeline) -> list[dict[str, Any]]:
    """Of each speaker, how much they say, and of each attribute mean, spread and extreme moments.

    The spread is the population deviation over utterances. Short utterances aren't extreme moments, unless all are.
    """
    found = []
    of_speakers: dict[str | None, list[tuple[int, Predicted]]] = {}
    for row, one in enumerate(timeline.utterances):
        of_speakers.setdefault(one.speaker, []).append((row, one))
    for speaker, own in of_speakers.items():
        steady = [(row, one) for row, one in own if not one.short] or own
        of_attributes = []
        for column, attribute in enumerate(timeline.attributes):
            calibrated, raw = np.array([one.values[column, :2] for _, one in own]).T
            among = [one.values[column, 0] for _, one in steady]
            extreme = {"highest": steady[np.argmax(among)], "lowest": steady[np.argmin(among)]}
            of_attributes.append(
                {
                    "attribute": attribute,
                    "mean": calibrated.mean(),
                    "spread": calibrated.std(),
                    "raw_mean": raw.mean(),
                    "raw_spread": raw.std(),
                    "moments": {
                        name: {"row": row, "value": one.values[column, 0], "start": one.start}
                        for name, (row, one) in extreme.items()
                    },
                }
            )
        seconds = sum(one.end - one.start for _, one in own)
        found.append({"name": named(speaker), "utterances": len(own), "seconds": seconds, "attributes": of_attributes})
    return found


def read_timelines(path: Path) -> list[Timeline]:
    """Read a table of `ser annotate`: its recordings in the order of their first rows."""
    if path.name == "predictions.csv" and path.with_name("metrics.json").is_file():
        remedy = f"Give its folder: `ser report {shlex.quote(str(path.parent))}`"
        raise UserError("is the table of a test run", where=path, remedy=remedy)
    rows = read_rows(path, _REQUIRED, filled=_REQUIRED[:3])
    attributes = tuple(name.removesuffix("_calibrated") for name in rows[0] if name.endswith("_calibrated"))
    missing = [f"{name}_raw" for name in attributes if f"{name}_raw" not in rows[0]]
    categories = () if attributes else tuple(name for name in rows[0] if name.endswith(PROBABILITY))
    if missing or not (attributes or categories):
        raise UserError(f"no column {(missing or ['ATTRIBUTE_calibrated'])[0]}", where=path, remedy=_REMEDY)
    of_file: dict[str, list[Predicted]] = {}
    for number, row in enumerate(rows, 1):
        of_file.setdefault(row["file"], []).append(_predicted(number, row, attributes, categories, path))
    shown = attributes or tuple(category.removesuffix(PROBABILITY) for category in categories)
    return [
        Timeline(file, shown, bool(categories), tuple(sorted(own, key=lambda one: (one.start, one.end))))
        for file, own in of_file.items()
    ]


def _predicted(
    number: int, row: Row, attributes: tuple[str, ...], categories: tuple[str, ...], path: Path
) -> Predicted:
    where = f"{path}, row {number}"
    start, end = (read_number(row, name, where, _REMEDY) for name in ("start", "end"))
    if not 0 <= start < end:
        raise UserError(f"lasts from {start:g} to {end:g} s", where=where, remedy=_REMEDY)
    values = [
        [
            read_number(row, f"{attribute}_{name}", where, _REMEDY, missing=_BLANK if name in ("low", "high") else ())
            for name in VALUES
        ]
        for attribute in attributes
    ] or [[read_number(row, category, where, _REMEDY), nan, nan, nan] for category in categories]
    overlap, short = (read_number(row, name, where, _REMEDY, missing=_BLANK) for name in ("overlap", "short"))
    speaker = row["speaker"] or None
    return Predicted(speaker, start, end, np.array(values), 0.0 if isnan(overlap) else overlap, short > 0)
