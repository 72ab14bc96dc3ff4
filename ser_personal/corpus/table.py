"""Tables -> rows of text, or vectors, with errors that name the file, the line and the cell."""

from __future__ import annotations

import csv
import gzip
import json
import logging
import re
import zipfile
import zlib
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections import Counter
from difflib import get_close_matches
from functools import cache
from importlib.util import find_spec
from io import StringIO
from itertools import chain
from math import inf, isfinite, isnan, nan
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ser_personal.errors import UserError
from ser_personal.files import atomic_write
from ser_personal.types import ATTRIBUTES, plain_name

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray


Row = dict[str, str]
Vectors = dict[str, "NDArray[np.float64]"]

logger = logging.getLogger(__name__)

WRITTEN = (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".parquet")
_NO_PYARROW = "Parquet needs the package pyarrow"
_BROKEN_ZIP = (zipfile.BadZipFile, zlib.error)

_NO_LABEL = frozenset({"", "-", "na", "n/a", "nan", "none", "null", "unknown", "hidden"})

# before a time as pandas, and with it audformat, writes it: 0 days 00:00:07.500000
_DAYS = re.compile(r"^0 days ?")
_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+")
# columns whose cells are names, whatever they look like
_TEXT = frozenset(
    {"path", "speaker", "split", "gender", "emotion", "id", "utterance"}
    | {"FileName", "SpkrID", "EmoClass", "Gender", "Split_Set"}
)
# columns of names, which other tools write as 10.0 for 10 where a cell is blank
_NAMES = _TEXT - {"path", "split", "FileName", "Split_Set"} | {"speaker_id", "segment_id"}
_WHOLE = re.compile(r"\d+(\.0+)?")
# columns whose cells name files, as the disk spells them
_PATHS = frozenset({"path", "file", "FileName"})
# what others call the columns that are known here
_SYNONYMS = {
    "path": {"file", "filename", "file_name", "filepath", "file_path", "audio", "audio_path", "wav", "wav_path"},
    "speaker": {"speaker_id", "speakerid", "spk", "spk_id", "spkrid", "speaker_name"},
    "split": {"set", "partition", "subset", "fold", "split_set"},
    "utterance": {"utterance_id", "utt", "utt_id", "id", "segment_id", "path", "file"},
    "FileName": {"file", "file_name", "path"},
    "SpkrID": {"speaker", "speaker_id", "spkr_id"},
    "Split_Set": {"split", "set", "partition"},
    "arousal": {"activation", "act", "aro", "emoact", "emo_act"},
    "valence": {"val", "emoval", "emo_val", "pleasure", "valenz"},
    "dominance": {"dom", "emodom", "emo_dom", "dominanz"},
}
# columns that say what part of a recording a row is: those that are read, and what else they are called
SEGMENT = ("start", "end")
_UNREAD_PARTS = {
    "onset": "start",
    "begin": "start",
    "start_time": "start",
    "begin_time": "start",
    "xmin": "start",
    "offset": "start or end, whichever it is",
    "stop": "end",
    "end_time": "end",
    "xmax": "end",
    "duration": "end, and add the start to it",
    "channel": "something else, and give each channel a file of its own",
}


def read_text(path: Path) -> str:
    """Read a text file in UTF-8 or UTF-16, with or without a byte order mark."""
    content = _read_bytes(path)
    if content.startswith(b"PK\x03\x04"):
        raise UserError("is an Excel workbook or another archive", where=path, remedy="Save the table as CSV, UTF-8")
    marked = content.startswith((BOM_UTF16_LE, BOM_UTF16_BE))
    if marked or 0 in content[:2]:
        _note(path, "UTF-16")
        return content.decode("utf-16" if marked else "utf-16-be" if content[0] == 0 else "utf-16-le", "replace")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        what = f"isn't UTF-8 text (byte {error.start} is {error.object[error.start]:#04x})"
        raise UserError(what, where=path, remedy="Save the file again as UTF-8") from error


def is_table(path: Path) -> bool:
    """Tell by its name whether a file is a table, one in JSON aside."""
    return path.name.lower().removesuffix(".gz").endswith((".csv", ".tsv", ".parquet"))


def read_rows(
    path: Path, required: Collection[str], filled: Collection[str] = (), any_case: Collection[str] = ()
) -> list[Row]:
    """Read a table whose columns are known by name, in any order.

    It may be gzipped, and separated by commas, semicolons or tabs, whichever makes the required columns of its header;
    of the latter two, numbers may have decimal commas. Every cell of text stays what it is: a speaker called NA, None
    or 007 keeps that name. The csv module, and not pandas, because pandas fills up short rows unnoticed, and its strict
    engine takes eight times as long.

    Args:
        path: the table, with a header line; or Parquet, or JSON in the form of MSP-Podcast's labels.
        required: columns it must have.
        filled: those of them without a blank cell.
        any_case: lower-case column names that are accepted in any case.

    Returns:
        Column -> cell of each row, as `plain_name` spells it, a path as it stands; blank lines are left out.
    """
    separator = ","
    if path.suffix.lower() == ".parquet":
        lines = _parquet_lines(path)
    elif path.suffix.lower() == ".json":
        lines = _json_lines(path, required)
    else:
        text = read_text(path)
        separator = _separator(text, required, any_case)
        lines = _csv_lines(text, separator, path)
    rows = []
    _, first = next(lines, ("", []))
    header = _header(first, any_case, path)
    _require_columns(header, required, path)
    _refuse_parts(header, path)
    if {*ATTRIBUTES} <= {*any_case}:
        _refuse_other_names(header, any_case, path)
    for where, cells in lines:
        if len(cells) != len(header):
            what = f"{len(cells)} cells where the header has {len(header)}"
            raise UserError(what, where=where, remedy="Give every row one cell per column, separators in quotes")
        named = zip(header, cells, strict=True)
        row = {name: cell.strip() if name in _PATHS else plain_name(cell) for name, cell in named}
        if separator != ",":
            numbers = {name: cell for name, cell in row.items() if name not in _TEXT and _DECIMAL_COMMA.fullmatch(cell)}
            row |= {name: cell.replace(",", ".") for name, cell in numbers.items()}
        for column in filled:
            if not row[column]:
                raise UserError(f"blank {column}", where=where, remedy="Fill it in or remove the row")
        rows.append(row)
    if not rows:
        raise UserError("holds no row", where=path, remedy="Give a table with at least one row")
    for name in header:
        if name in _NAMES:
            _undo_floats(rows, name, path)
    return rows


def _read_bytes(path: Path) -> bytes:
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if content.startswith(b"\x1f\x8b") else content
    except FileNotFoundError as error:
        raise UserError("no such file", where=path, remedy="Check the spelling of the path") from error
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"can't be read ({reason})", where=path, remedy="Give a readable file") from error


def _csv_lines(text: str, separator: str, path: Path) -> Iterator[tuple[str, list[str]]]:
    reader = csv.reader(StringIO(text, newline=""), strict=True, delimiter=separator)
    if separator != ",":
        _note(path, "separated by semicolons" if separator == ";" else "separated by tabs")
    try:
        yield from ((f"{path}, line {reader.line_num}", cells) for cells in reader if cells)
    except csv.Error as error:
        where = f"{path}, line {reader.line_num}"
        raise UserError(f"broken CSV ({error})", where=where, remedy="Correct or remove the line") from error


def _separator(text: str, required: Collection[str], any_case: Collection[str]) -> str:
    """Choose the separator that makes the required columns of the header; a comma where none does."""
    line = text.lstrip("\r\n").partition("\n")[0]
    for separator in (",", ";", "\t"):
        names = {name.strip(' "\r') for name in line.split(separator)}
        if names | {name.lower() for name in names if name.lower() in any_case} >= set(required):
            return separator
    return max(",;\t", key=line.count)


def _parquet_lines(path: Path) -> Iterator[tuple[str, list[str]]]:
    import pandas as pd

    try:
        # by default, a null makes floats of integers
        frame = pd.read_parquet(path, dtype_backend="numpy_nullable")
    except ImportError as error:
        remedy = "`pip install 'ser_personal[parquet]'`, or save it as CSV"
        raise UserError(_NO_PYARROW, where=path, remedy=remedy) from error
    # pyarrow's errors are of both kinds
    except (OSError, ValueError) as error:
        raise UserError("isn't a Parquet file that can be read", where=path, remedy="Write it again") from error
    yield "", [str(name) for name in frame.columns]
    columns = [frame[name].astype(object).where(frame[name].notna(), None) for name in frame.columns]
    for number, cells in enumerate(zip(*columns, strict=True), 2):
        yield f"{path}, line {number}", [_cell(cell) for cell in cells]


def _json_lines(path: Path, required: Collection[str]) -> Iterator[tuple[str, list[str]]]:
    """Read `{"NAME.wav": {"EmoAct": 4.0, ...}, ...}`, as in releases of MSP-Podcast; null and NaN are blank."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        for name, times in Counter(name for name, _ in pairs).items():
            if times > 1:
                raise UserError(f"{name!r} is listed more than once", where=path, remedy="Keep one of them")
        return dict(pairs)

    try:
        table = json.loads(read_text(path), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise UserError(f"broken JSON ({error})", where=path, remedy="Correct or copy the file again") from error
    if not isinstance(table, dict) or not all(isinstance(fields, dict) for fields in table.values()):
        remedy = "Give one object, from FileName to an object of fields"
        raise UserError("isn't a JSON object of objects", where=path, remedy=remedy)
    columns = list(dict.fromkeys(name for name in chain(*table.values()) if name != "FileName"))
    yield "", ["FileName", *columns]
    for name, fields in table.items():
        _require_columns({"FileName", *fields}, required, f"{path}, {name}")
        yield f"{path}, {name}", [name, *(_cell(fields.get(column)) for column in columns)]


@cache
def _note(path: Path, what: str) -> None:
    logger.warning("%s: read as %s", path, what)


def _undo_floats(rows: Sequence[Row], name: str, path: Path) -> None:
    cells = {row[name] for row in rows} - {""}
    if all(map(_WHOLE.fullmatch, cells)) and any("." in cell for cell in cells):
        _note(path, f"whole numbers in column {name}, such as 10 for 10.0")
        for row in rows:
            row[name] = row[name].partition(".")[0]


def read_vectors(path: Path, of: str = "utterance") -> Vectors:
    """Read utterance -> vector (dim,), from any tool, or speaker -> vector.

    Args:
        path: .npz or .safetensors with an array for each, by its name; or else a table with the column `utterance` and
            one column for each dimension, in the vector's order.
        of: what has vectors: utterance or speaker.
    """
    is_table = path.suffix.lower() not in {".npz", ".safetensors"}
    vectors = _table_of_vectors(path, of) if is_table else _read_arrays(path)
    shapes = sorted({vector.shape for vector in vectors.values()})
    if len(shapes) != 1 or len(shapes[0]) != 1:
        what = f"holds arrays of the shapes {', '.join(map(str, shapes[:3])) or 'none'}"
        raise UserError(what, where=path, remedy=f"Give one vector for each {of}, all of one length")
    return vectors


def _read_arrays(path: Path) -> Vectors:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        if path.suffix.lower() == ".safetensors":
            return {plain_name(name): array.astype(np.float64) for name, array in load_file(path).items()}
        with np.load(path, allow_pickle=False) as arrays:
            return {plain_name(name): np.asarray(arrays[name], dtype=np.float64) for name in arrays.files}
    except FileNotFoundError as error:
        raise UserError("no such file", where=path, remedy="Check the spelling of the path") from error
    # a RuntimeError is of an .npz entry that is encrypted or compressed in an unsupported way
    except (OSError, EOFError, KeyError, MemoryError, RuntimeError, ValueError, SafetensorError, *_BROKEN_ZIP) as error:
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
    """Refuse a name whose ending is none that `write_rows` writes, or whose library is missing."""
    if not path.name.lower().endswith(WRITTEN):
        remedy = f"Give a name that ends in {', '.join(WRITTEN[:-1])} or {WRITTEN[-1]}"
        raise UserError("has the ending of no table", where=path, remedy=remedy)
    if path.suffix.lower() == ".parquet" and find_spec("pyarrow") is None:
        raise UserError(_NO_PYARROW, where=path, remedy="`pip install 'ser_personal[parquet]'`, or write .csv")


def write_rows(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a table that the functions above read, by its ending; None and NaN become blank cells."""
    name = path.name.lower()
    if name.endswith(".parquet"):
        import pandas as pd

        try:
            atomic_write(path, pd.DataFrame(list(rows), columns=list(columns)).to_parquet(index=False))
        except UnicodeEncodeError as error:
            what = f"Parquet can't hold {error.object[:80]!a}, which isn't Unicode"
            raise UserError(what, where=path, remedy="Rename it, or write .csv") from error
        return
    text = StringIO(newline="")
    separator = "\t" if name.removesuffix(".gz").endswith(".tsv") else ","
    table = csv.writer(text, lineterminator="\n", delimiter=separator)
    table.writerow(columns)
    table.writerows([[_cell(cell) for cell in row] for row in rows])
    content = text.getvalue().encode("utf-8", "surrogateescape")
    atomic_write(path, gzip.compress(content, mtime=0) if name.endswith(".gz") else content)


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


def _cell(value: object) -> str:
    return "" if value is None or (isinstance(value, float) and isnan(value)) else str(value).strip()


def _require_columns(found: Collection[str], required: Collection[str], where: object) -> None:
    missing = [name for name in required if name not in found]
    if missing:
        meant = {
            name: each for name in missing for each in found if each.lower() in {name.lower(), *_SYNONYMS.get(name, ())}
        }
        what = f"no column {', '.join(missing)} (found: {', '.join(found) or 'none'})"
        remedy = "Name the columns as listed, separated by commas"
        if meant:
            remedy = f"Did you mean {', '.join(meant.values())}? Rename it to {', '.join(meant)}"
        raise UserError(what, where=where, remedy=remedy)


def _refuse_parts(header: Collection[str], path: Path) -> None:
    """Refuse columns of a table of recordings that change what a row is, and aren't read."""
    folded = {name.lower() for name in header}
    if "path" not in folded:
        return
    for name in header:
        if name.lower() in _UNREAD_PARTS:
            what = f"column {name} would say what part of a recording a row is, and isn't read"
            remedy = f"Rename it to {_UNREAD_PARTS[name.lower()]}; start and end are read, in seconds or h:mm:ss"
            raise UserError(what, where=path, remedy=remedy)
    if len(folded & {*SEGMENT}) == 1:
        what = f"has one of the columns {' and '.join(SEGMENT)} alone"
        raise UserError(what, where=path, remedy="Add the other, blank where a segment reaches to the end")


def is_called_like(name: str, attribute: str) -> bool:
    """Whether a column has another name for an attribute: another case, a synonym, or a misspelling."""
    return name.lower() in _SYNONYMS[attribute] or bool(get_close_matches(name.lower(), [attribute], cutoff=0.8))


def _refuse_other_names(header: Collection[str], read: Collection[str], path: Path) -> None:
    """Refuse a column that isn't read and is called like a missing attribute: its labels would go unnoticed."""
    for attribute in ATTRIBUTES:
        for name in header:
            if attribute not in header and name not in read and is_called_like(name, attribute):
                remedy = f"Did you mean {name}? Rename it to {attribute}, or if it is something else, to that"
                raise UserError(f"no column {attribute}, and {name} isn't read", where=path, remedy=remedy)


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
    clock = _DAYS.sub("", cell) or "0:00:00"
    *larger, last = clock.split(":")
    try:
        seconds = float(last)
        for power, part in enumerate(reversed(larger), 1):
            seconds += int(part) * 60**power
    except ValueError:
        seconds = nan
    if not 0 <= seconds < inf or len(larger) > 2 or "-" in cell:
        raise UserError(f"{column} is {cell!r}, not a time", where=where, remedy="Write seconds (7.5) or h:mm:ss")
    return seconds


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
