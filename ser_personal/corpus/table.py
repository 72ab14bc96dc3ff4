"""Tables -> rows of text, or vectors, with errors that name the file, the line and the cell."""

from __future__ import annotations

import csv
import gzip
import json
import logging
import re
import zlib
from codecs import BOM_UTF16_BE, BOM_UTF16_LE, getwriter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from functools import cache
from io import StringIO
from math import inf, isfinite, isnan, nan
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from ser_personal.errors import UserError
from ser_personal.files import atomic_file
from ser_personal.types import ATTRIBUTES, plain_name

Row = dict[str, str]
Vectors = dict[str, "NDArray[np.float64]"]

logger = logging.getLogger(__name__)

# an AttributeError is of one array alone, a RuntimeError of one that is encrypted or compressed in an unsupported way
_BROKEN = (AttributeError, BadZipFile, EOFError, KeyError, MemoryError, OSError, RuntimeError, ValueError, zlib.error)
_NO_LABEL = frozenset({"", "-", "na", "n/a", "nan", "none", "null", "unknown", "hidden"})

# columns whose cells name files, as the disk spells them
_PATHS = frozenset({"path", "file", "FileName"})
_SPEAKERS = frozenset({"speaker", "speaker_id", "SpkrID"})
# columns whose cells are names, whatever they look like
_NAMES = _PATHS | {"speaker", "split", "gender", "emotion", "id", "utterance"}
_WHOLE = re.compile(r"\d+(\.0)?")
_DECIMAL_COMMA = re.compile(r"^([+-]?\d+),(\d+)$")
# what others call the columns that are known here
_SYNONYMS = {
    "path": {"file", "filename", "file_name", "file_path", "audio", "audio_path", "wav"},
    "speaker": {"speaker_id", "speakerid", "spk", "spk_id", "spkrid"},
    "split": {"set", "partition", "subset", "split_set"},
    "utterance": {"utterance_id", "utt", "utt_id", "id", "path", "file"},
    "arousal": {"activation", "act", "aro", "emoact", "emo_act"},
    "valence": {"val", "emoval", "emo_val", "pleasure", "valenz"},
    "dominance": {"dom", "emodom", "emo_dom", "dominanz"},
}
# columns that say what part of a recording a row is: those that are read, and others, which change what a row is
SEGMENT = ("start", "end")
_UNREAD_PARTS = {"onset", "begin", "start_time", "begin_time", "xmin", "offset", "stop", "end_time", "xmax", "duration"}
_UNREAD_PARTS |= {"channel"}


def read_text(path: Path) -> str:
    """Read a text file in UTF-8 or, with a byte order mark, UTF-16, gzipped or not."""
    try:
        content = path.read_bytes()
        content = gzip.decompress(content) if content.startswith(b"\x1f\x8b") else content
        if b"\0\0" in (content[:4:2], content[1:4:2]):
            raise UserError("looks like UTF-16 without its mark", where=path, remedy="Save it again as UTF-8")
        if content.startswith((BOM_UTF16_LE, BOM_UTF16_BE)):
            _note(path, "UTF-16")
            return content.decode("utf-16")
        return content.decode("utf-8-sig")
    except FileNotFoundError as error:
        raise UserError("no such file", where=path, remedy="Check the spelling of the path") from error
    except UnicodeDecodeError as error:
        what = f"isn't {error.encoding.upper()} text (byte {error.start} is {error.object[error.start]:#04x})"
        raise UserError(what, where=path, remedy="Save the file again as UTF-8") from error
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"can't be read ({reason})", where=path, remedy="Give a readable file") from error


def is_table(path: Path) -> bool:
    """Tell by its name whether a file is a table."""
    return path.name.lower().removesuffix(".gz").endswith((".csv", ".tsv", ".parquet"))


def read_rows(
    path: Path, required: Collection[str], filled: Collection[str] = (), any_case: Collection[str] = ()
) -> list[Row]:
    """Read a table whose columns are known by name, in any order.

    It may be gzipped, and separated by commas, semicolons or tabs, whichever its header has most of; with semicolons or
    tabs, numbers may have decimal commas. Every cell of text stays what it is: a speaker called NA, None or 007 keeps
    that name. The csv module, and not pandas, because pandas fills up short rows unnoticed, and its strict engine takes
    eight times as long.

    Args:
        path: the table, with a header line; or Parquet, or JSON in the form of MSP-Podcast's labels.
        required: columns it must have.
        filled: those of them without a blank cell.
        any_case: lower-case column names that are accepted in any case.

    Returns:
        Column -> cell of each row, as `plain_name` spells it, a path as it stands; blank lines are left out.
    """
    as_csv = {".parquet": _parquet_as_csv, ".json": _json_as_csv}.get(path.suffix.lower())
    text = as_csv(path) if as_csv else read_text(path)
    separator = "," if as_csv else max(",;\t", key=text.lstrip("\r\n").partition("\n")[0].count)
    if separator != ",":
        _note(path, "separated by semicolons" if separator == ";" else "separated by tabs")
    lines = _lines(text, separator, path)
    _, first = next(lines, ("", []))
    header = _header(first, any_case, path)
    _check_columns(header, required, any_case, path)
    rows = []
    for where, cells in lines:
        if len(cells) != len(header):
            what = f"{len(cells)} cells where the header has {len(header)}"
            raise UserError(what, where=where, remedy="Give every row one cell per column, separators in quotes")
        named = zip(header, cells, strict=True)
        row = {name: cell.strip() if name in _PATHS else plain_name(cell) for name, cell in named}
        if separator != ",":
            for name in row.keys() - _NAMES:
                row[name] = _DECIMAL_COMMA.sub(r"\1.\2", row[name])
        for column in filled:
            if not row[column]:
                raise UserError(f"blank {column}", where=where, remedy="Fill it in or remove the row")
        rows.append(row)
    if not rows:
        raise UserError("holds no row", where=path, remedy="Give a table with at least one row")
    for name in header:
        # other tools make floats of whole numbers where a cell is blank
        if name in _SPEAKERS and all(_WHOLE.fullmatch(row[name]) for row in rows if row[name]):
            for row in rows:
                row[name] = row[name].removesuffix(".0")
    return rows


@cache
def _note(path: Path, what: str) -> None:
    logger.warning("%s: read as %s", path, what)


def _lines(text: str, separator: str, path: Path) -> Iterator[tuple[str, list[str]]]:
    reader = csv.reader(StringIO(text, newline=""), strict=True, delimiter=separator)
    try:
        yield from ((f"{path}, line {reader.line_num}", cells) for cells in reader if cells)
    except csv.Error as error:
        where = f"{path}, line {reader.line_num}"
        raise UserError(f"broken CSV ({error})", where=where, remedy="Correct or remove the line") from error


def _parquet_as_csv(path: Path) -> str:
    import pandas as pd

    try:
        # by default, a null makes floats of integers
        return str(pd.read_parquet(path, dtype_backend="numpy_nullable").to_csv(index=False))
    except (ImportError, OSError, ValueError) as error:
        remedy = "Save it as CSV, or `pip install 'ser_personal[parquet]'`"
        raise UserError(f"can't be read as Parquet ({error})", where=path, remedy=remedy) from error


def _json_as_csv(path: Path) -> str:
    """Read `{"NAME.wav": {"EmoAct": 4.0, ...}, ...}`, as in releases of MSP-Podcast; null and NaN become blank."""
    import pandas as pd

    try:
        # pairs, so that a name that is listed twice is two rows
        pairs = json.loads(read_text(path), object_pairs_hook=list)
        rows = [{**dict(fields), "FileName": name} for name, fields in pairs]
    except (TypeError, ValueError, RecursionError) as error:
        remedy = "Give one object, from FileName to an object of fields"
        raise UserError(f"isn't JSON of labels ({error})", where=path, remedy=remedy) from error
    return str(pd.DataFrame(rows, dtype=object).to_csv(index=False))


def _header(cells: Sequence[str], any_case: Collection[str], path: Path) -> list[str]:
    names = [name.strip() for name in cells]
    # of two spellings, the exact one counts
    folded = {name.lower() for name in names} & set(any_case) - set(names)
    header = [name.lower() if name.lower() in folded else name for name in names]
    # spreadsheets leave columns without a name behind
    if twice := sorted({name for name in header if name and header.count(name) > 1}):
        what = f"has column {', '.join(twice)} more than once"
        raise UserError(what, where=path, remedy="Rename or remove one of them")
    return header


def _check_columns(header: Sequence[str], required: Collection[str], read: Collection[str], path: Path) -> None:
    missing = [name for name in required if name not in header]
    if missing:
        what = f"no column {', '.join(missing)} (found: {', '.join(header) or 'none'})"
        remedy = "Name the columns as listed, separated by commas"
        meant = {name: each for name in missing for each in header if each.lower() in _SYNONYMS.get(name, ())}
        if meant:
            remedy = f"Did you mean {', '.join(meant.values())}? Rename it to {', '.join(meant)}"
        raise UserError(what, where=path, remedy=remedy)
    folded = {name.lower() for name in header}
    if "path" in folded:
        if len(folded & {*SEGMENT}) == 1:
            what = f"has one of the columns {' and '.join(SEGMENT)} alone"
            raise UserError(what, where=path, remedy="Add the other, blank where a segment reaches to the end")
        for name in header:
            if name.lower() in _UNREAD_PARTS:
                what = f"column {name} would say what part of a recording a row is, and isn't read"
                remedy = "Give start and end in seconds or h:mm:ss, and each channel as a file of its own"
                raise UserError(what, where=path, remedy=remedy)
    for attribute in [name for name in ATTRIBUTES if name in read and name not in header]:
        for name in [name for name in header if name not in read]:
            similar = get_close_matches(name.lower(), [attribute], cutoff=0.8)
            if similar or name.lower() in _SYNONYMS[attribute]:
                remedy = f"Did you mean {name}? Rename it to {attribute}, or if it is something else, to that"
                raise UserError(f"no column {attribute}, and {name} isn't read", where=path, remedy=remedy)


def read_vectors(path: Path, of: str = "utterance") -> Vectors:
    """Read utterance, or speaker -> vector (dim,), from any tool.

    An .npz or .safetensors has an array for each, by its name; a table a column of the names, called `utterance` or
    `speaker`, and one for each dimension, in the vector's order.
    """
    vectors = _read_arrays(path) if path.suffix.lower() in {".npz", ".safetensors"} else _table_of_vectors(path, of)
    shapes = sorted({vector.shape for vector in vectors.values()})
    if len(shapes) != 1 or len(shapes[0]) != 1:
        what = f"holds arrays of the shapes {', '.join(map(str, shapes[:3])) or 'none'}"
        raise UserError(what, where=path, remedy=f"Give one vector for each {of}, all of one length")
    return vectors


def _read_arrays(path: Path) -> Vectors:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        arrays = load_file(path) if path.suffix.lower() == ".safetensors" else np.load(path, allow_pickle=False)
        return {plain_name(name): np.asarray(array, dtype=np.float64) for name, array in arrays.items()}
    except FileNotFoundError as error:
        raise UserError("no such file", where=path, remedy="Check the spelling of the path") from error
    except (*_BROKEN, SafetensorError) as error:
        what = f"isn't a complete {path.suffix} file of numbers ({error})"
        raise UserError(what, where=path, remedy="Write it with numpy.savez or safetensors.numpy.save_file") from error


def _table_of_vectors(path: Path, of: str) -> Vectors:
    vectors: Vectors = {}
    for row in read_rows(path, required=(of,), filled=(of,)):
        name = row.pop(of)
        if name in vectors:
            raise UserError(f"lists {of} {name} more than once", where=path, remedy="Keep one of the rows")
        try:
            vectors[name] = np.array(list(row.values()), dtype=np.float64)
        except ValueError as error:
            what = f"the vector of {of} {name} isn't all numbers ({error})"
            remedy = f"Give the column {of}, and one column of numbers for each dimension"
            raise UserError(what, where=path, remedy=remedy) from error
    return vectors


def check_ending(path: Path) -> None:
    """Refuse to write a table under a name that doesn't end in .csv."""
    if path.suffix.lower() != ".csv":
        raise UserError("isn't the name of a .csv", where=path, remedy="Give one that ends in .csv")


def write_rows(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a table that `read_rows` reads, row by row; None and NaN become blank cells."""
    with atomic_file(path) as file:
        table = csv.writer(getwriter("utf-8")(file, "surrogateescape"), lineterminator="\n")
        table.writerow(columns)
        table.writerows([_cell(cell) for cell in row] for row in rows)


def _cell(value: object) -> str:
    return "" if value is None or (isinstance(value, float) and isnan(value)) else str(value).strip()


def attribute_labels(row: Row, columns: Mapping[str, str], where: object) -> dict[str, float]:
    """Read a row's label of each attribute, NaN where the column (of `columns`) or the label is missing or hidden."""
    remedy = "Write a number, or leave the cell blank where there is no label"
    return {name: read_number(row, columns[name], where, remedy, missing=_NO_LABEL) for name in ATTRIBUTES}


def known(cell: str) -> str | None:
    """Turn a blank cell, `Unknown` or `<NA>`, as RTTM and pandas have it, into None."""
    return None if cell.lower() in {"", "unknown", "<na>"} else cell


def read_number(row: Row, column: str, where: object, remedy: str, *, missing: Collection[str] = ()) -> float:
    """Read a cell that holds a finite number; NaN where it is one of the words for a missing one, in any case."""
    cell = row.get(column, "")
    if cell.lower() in missing:
        return nan
    try:
        value = float(cell)
    except ValueError:
        value = nan
    if not isfinite(value):
        raise UserError(f"{column} is {cell!r}, not a finite number", where=where, remedy=remedy)
    return value


def segment(row: Row, where: object) -> tuple[float, float] | None:
    """Read where in its recording a row begins and ends, seconds; None where it is all of it, NaN for an open end."""
    start, end = (_seconds(row.get(name, ""), name, where) for name in SEGMENT)
    if isnan(start) and isnan(end):
        return None
    start = 0.0 if isnan(start) else start
    if end <= start:
        remedy = "Give the second at which it begins, then that at which it ends"
        raise UserError(f"ends at {end:g} s and starts at {start:g} s", where=where, remedy=remedy)
    return start, end


def _seconds(cell: str, column: str, where: object) -> float:
    if not cell:
        return nan
    # pandas writes 0 days 00:00:07.5, subtitles 00:00:07,500
    *larger, last = (cell.removeprefix("0 days").strip() or "0").split(":")
    try:
        seconds = float(last.replace(",", ".") if larger else last)
        for power, part in enumerate(reversed(larger), 1):
            seconds += int(part) * 60**power
    except ValueError:
        seconds = nan
    if not 0 <= seconds < inf or len(larger) > 2 or "-" in cell:
        raise UserError(f"{column} is {cell!r}, not a time", where=where, remedy="Write seconds (7.5) or h:mm:ss")
    return seconds
