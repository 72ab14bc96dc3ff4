"""Rows -> CSV, JSON lines or Parquet, by the ending of the file's name."""

from __future__ import annotations

import csv
import json
import os
from importlib.util import find_spec
from itertools import islice
from typing import TYPE_CHECKING, Any

from ser_personal.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from ser_personal.recognition.rows import Row

ROWS_AT_ONCE = 10_000
_TEXT = ("source", "speaker")
_COUNTS = ("calibration_utterances",)


def check_format(path: Path) -> None:
    """Refuse a name that says no format, or one whose library is missing.

    Raises:
        UserError: so it is.
    """
    if path.suffix.lower() not in _WRITERS:
        raise UserError(
            f"ends in {path.suffix!r}", where=path, remedy=f"Choose a name that ends in {', '.join(_WRITERS)}"
        )
    if path.suffix.lower() == ".parquet" and find_spec("pyarrow") is None:
        raise UserError(
            "needs the package pyarrow", where=path, remedy="`pip install pyarrow`, or choose .csv or .jsonl"
        )


def write_table(path: Path, rows: Iterable[Row | dict[str, str]], columns: Sequence[str]) -> None:
    """Write rows one after the other, the whole file or nothing."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        _WRITERS[path.suffix.lower()](temporary, rows, columns)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _write_csv(path: Path, rows: Iterable[Row | dict[str, str]], columns: Sequence[str]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, columns, lineterminator="\n")
        table.writeheader()
        table.writerows(rows)


def _write_json_lines(path: Path, rows: Iterable[Row | dict[str, str]], _columns: Sequence[str]) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)


def _write_parquet(path: Path, rows: Iterable[Row | dict[str, str]], columns: Sequence[str]) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    def kind(column: str) -> Any:
        if column in _TEXT:
            return pa.string()
        return pa.int64() if column in _COUNTS else pa.float64()

    schema = pa.schema([(column, kind(column)) for column in columns])
    remaining = iter(rows)
    with parquet.ParquetWriter(path, schema) as writer:
        while some := list(islice(remaining, ROWS_AT_ONCE)):
            writer.write_table(pa.Table.from_pylist(some, schema=schema))


_WRITERS: dict[str, Callable[[Path, Iterable[Row | dict[str, str]], Sequence[str]], None]] = {
    ".csv": _write_csv,
    ".jsonl": _write_json_lines,
    ".parquet": _write_parquet,
}
