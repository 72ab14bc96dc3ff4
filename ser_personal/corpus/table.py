"""Label files -> rows of text, with errors that name the file, the line and the cell."""

from __future__ import annotations

import csv
import json
import os
from collections import Counter
from io import StringIO
from math import inf, isfinite, isnan
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any

from ser_personal.errors import UserError
from ser_personal.files import atomic_write
from ser_personal.types import ATTRIBUTES

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence


Row = dict[str, str]

LONGEST_NAME = 255  # bytes, on all common file systems

_NO_LABEL = frozenset({"", "-", "na", "n/a", "nan", "none", "null", "unknown", "hidden"})


def read_text(path: Path) -> str:
    """Read a UTF-8 text file, with or without a byte order mark."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise UserError("no such file", where=path, remedy="Check the spelling of the path") from error
    except UnicodeDecodeError as error:
        what = f"isn't UTF-8 text (byte {error.start} is {error.object[error.start]:#04x})"
        raise UserError(what, where=path, remedy="Save the file again as UTF-8") from error
    except OSError as error:
        raise UserError(f"can't be read ({error.strerror})", where=path, remedy="Give a readable file") from error


def read_csv_rows(
    path: Path, required: Collection[str], filled: Collection[str] = (), any_case: Collection[str] = ()
) -> list[Row]:
    """Read a comma-separated table whose columns are known by name, in any order.

    Every cell stays the text that it is: a speaker called NA, None or 007 keeps that name. The csv module, and not
    pandas, because pandas fills up short rows unnoticed, and its strict engine takes eight times as long.

    Args:
        path: the table, with a header line.
        required: columns it must have.
        filled: those of them without a blank cell.
        any_case: lower-case column names that are accepted in any case.

    Returns:
        Column -> cell of each row, surrounding blanks removed; blank lines are left out.

    Raises:
        UserError: the file can't be read, lacks a column or a cell, names a column twice, holds no row, or a row has
            more or fewer cells than the header.
    """
    reader = csv.reader(StringIO(read_text(path), newline=""), strict=True)
    rows = []
    try:
        header = _header(next(reader, []), any_case, path)
        _require_columns(header, required, path)
        for cells in filter(None, reader):
            where = f"{path}, line {reader.line_num}"
            if len(cells) != len(header):
                what = f"{len(cells)} cells where the header has {len(header)}"
                raise UserError(what, where=where, remedy="Give every row one cell a column, commas in quotes")
            row = {name: cell.strip() for name, cell in zip(header, cells, strict=True)}
            _require_filled(row, filled, where)
            rows.append(row)
    except csv.Error as error:
        where = f"{path}, line {reader.line_num}"
        raise UserError(f"broken CSV ({error})", where=where, remedy="Correct or remove the line") from error
    return _require_rows(rows, path)


def write_rows(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a table that the functions above read; None and NaN become blank cells."""
    text = StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(columns)
    table.writerows([[_cell(cell) for cell in row] for row in rows])
    atomic_write(path, text.getvalue().encode("utf-8", "surrogateescape"))


def read_json_rows(path: Path, key: str, required: Collection[str], filled: Collection[str] = ()) -> list[Row]:
    """Read a JSON object of objects as the table it is a twin of.

    Args:
        path: a file such as `{"NAME.wav": {"EmoAct": 4.0, ...}, ...}`.
        key: the column that the outer keys fill.
        required: columns that every row must have.
        filled: those of them without a blank cell.

    Returns:
        Column -> cell of each row, as text; null and NaN become blank.
    """

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
        remedy = f"Give one object, from {key} to an object of fields"
        raise UserError("isn't a JSON object of objects", where=path, remedy=remedy)
    rows = [{key: name} | {column: _cell(value) for column, value in fields.items()} for name, fields in table.items()]
    for row in rows:
        where = f"{path}, {row[key]}"
        _require_columns(row, required, where)
        _require_filled(row, filled, where)
    return _require_rows(rows, path)


def attribute_labels(row: Row, columns: Mapping[str, str], where: object) -> dict[str, float]:
    """Read a row's label of each attribute, NaN where the column or the label is missing or hidden.

    Args:
        row: column -> cell.
        columns: attribute -> the column that holds it.
        where: what an error calls the row.
    """
    return {attribute: _label(row.get(columns[attribute], ""), columns[attribute], where) for attribute in ATTRIBUTES}


def known(cell: str) -> str | None:
    """Turn a blank cell or `Unknown` into None."""
    return None if cell.lower() in {"", "unknown"} else cell


def _label(cell: str, column: str, where: object) -> float:
    if cell.lower() in _NO_LABEL:
        return float("nan")
    try:
        label = float(cell)
    except ValueError:
        label = inf
    if not isfinite(label):
        remedy = "Write a number, or leave the cell blank where there is no label"
        raise UserError(f"{column} is {cell!r}, not a number", where=where, remedy=remedy)
    return label


def _cell(value: object) -> str:
    return "" if value is None or (isinstance(value, float) and isnan(value)) else str(value).strip()


def _require_columns(found: Collection[str], required: Collection[str], where: object) -> None:
    missing = [name for name in required if name not in found]
    if missing:
        what = f"no column {', '.join(missing)} (found: {', '.join(found) or 'none'})"
        raise UserError(what, where=where, remedy="Name the columns as listed, separated by commas")


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


def _require_filled(row: Row, filled: Collection[str], where: object) -> None:
    for column in filled:
        if not row[column]:
            raise UserError(f"blank {column}", where=where, remedy="Fill it in or remove the row")


def _require_rows(rows: list[Row], path: Path) -> list[Row]:
    if not rows:
        raise UserError("lists no utterance", where=path, remedy="Give a table with at least one row")
    return rows


def audio_path(folder: Path, cell: str, where: object, *, allow_outside: bool = False) -> Path:
    """Find a recording, which has to lie in the corpus's folder or in one below.

    Otherwise, somebody else's table could have any file of this machine decoded and its content passed on. Links inside
    the folder are followed wherever they lead, since a table can't make them.

    Args:
        folder: that paths are relative to.
        cell: the path as the table has it, with slashes or, on Windows, backslashes.
        where: what an error calls the row.
        allow_outside: accept absolute paths and those through `..`.
    """
    parts = PureWindowsPath(cell).parts
    if not all(map(_is_a_name, parts)):
        raise UserError(f"{cell[:80]!r} can't be a file's name", where=where, remedy="Correct or remove the row")
    path = folder / cell
    if "\\" in cell and not path.is_file():
        path = folder / cell.replace("\\", "/")
    leaves = PurePosixPath(cell).is_absolute() or PureWindowsPath(cell).anchor or ".." in parts
    if leaves and not allow_outside:
        remedy = f"Move the audio into {folder}, or allow it: --data.corpus CSVCorpus --data.corpus.allow_outside true"
        raise UserError(f"{cell} lies outside the corpus", where=where, remedy=remedy)
    return path


def _is_a_name(part: str) -> bool:
    try:
        return "\0" not in part and len(os.fsencode(part)) <= LONGEST_NAME
    except UnicodeEncodeError:
        return False
