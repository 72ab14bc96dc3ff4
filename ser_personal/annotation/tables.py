"""What `ser annotate` writes: tables, and of each recording a Praat TextGrid or Audacity's labels."""

from __future__ import annotations

import csv
import json
import shutil
from collections import Counter
from importlib.util import find_spec
from io import TextIOWrapper
from itertools import groupby, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, TYPE_CHECKING, Any
from zipfile import ZipFile

import numpy as np

from ser_personal.errors import UserError
from ser_personal.files import atomic_file

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from ser_personal.recognition.recordings import Recording

    Row = Mapping[str, Any]

ROWS_AT_ONCE = 10_000
TABLES = (".csv", ".parquet", ".jsonl")
FORMATS = (*TABLES, ".TextGrid", ".txt")
_NEEDED = {".parquet": "pyarrow", ".textgrid": "praatio"}
_TEXT_COLUMNS = ("file", "speaker", "predicted")
_COUNT_COLUMNS = ("calibration_utterances", "short")


def check_format(path: Path) -> None:
    """Refuse a name whose ending is of no format, or of one whose library is missing."""
    ending = path.suffix.lower()
    if ending not in map(str.lower, FORMATS):
        remedy = f"Choose a name that ends in {', '.join(FORMATS)}"
        raise UserError(f"ends in {path.suffix!r}", where=path, remedy=remedy)
    package = _NEEDED.get(ending)
    if package is not None and find_spec(package) is None:
        remedy = f"`pip install {package}`, or choose .csv or .jsonl"
        raise UserError(f"needs the package {package}", where=path, remedy=remedy)


def check_stems(path: Path, recordings: Iterable[Recording]) -> None:
    """Refuse recordings whose TextGrids or labels would have one name."""
    stems = Counter(Path(source).stem for source in {recording.source for recording in recordings})
    name, times = max(stems.items(), key=lambda item: item[1])
    if path.suffix.lower() not in TABLES and times > 1:
        remedy = "Annotate them one by one, or choose .csv"
        raise UserError(f"{times} recordings are called {name}", where=path, remedy=remedy)


def write_annotations(
    path: Path, rows: Iterable[Row], columns: Sequence[str], attributes: Sequence[str], recordings: Sequence[Recording]
) -> None:
    """Write rows by the ending of the name, all or nothing: a table of the columns, or of each recording a file.

    The rows of a recording come together. A file shows the attributes, or the likeliest emotion if there are none; it
    isn't written where its recording has no rows. Of several recordings, `path` is a folder of their files.
    """
    if path.suffix.lower() in TABLES:
        write_table(path, rows, columns)
        return
    seconds = {recording.source: recording.seconds() for recording in recordings}
    with TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as scratch:
        folder = Path(scratch) / "files"
        folder.mkdir()
        for file, of_file in groupby(rows, key=lambda row: str(row["file"])):
            one = folder / f"{Path(file).stem}{path.suffix}"
            if path.suffix.lower() == ".txt":
                write_labels(one, [*of_file], attributes)
            else:
                write_textgrid(one, [*of_file], attributes, seconds[file])
        if path.is_dir():
            shutil.rmtree(path)
        for written in [folder] if len(seconds) > 1 else folder.iterdir():
            written.replace(path)


def write_table(path: Path, rows: Iterable[Row], columns: Sequence[str]) -> None:
    """Write rows one after the other, the whole file or nothing."""
    with atomic_file(path) as file:
        if path.suffix.lower() == ".parquet":
            _write_parquet(file, rows, columns)
            return
        text = TextIOWrapper(file, encoding="utf-8", newline="")
        if path.suffix.lower() == ".jsonl":
            text.writelines(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
        else:
            table = csv.DictWriter(text, columns, lineterminator="\n")
            table.writeheader()
            table.writerows(rows)
        text.detach()


def _write_parquet(file: IO[bytes], rows: Iterable[Row], columns: Sequence[str]) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    types = dict.fromkeys(_TEXT_COLUMNS, pa.string()) | dict.fromkeys(_COUNT_COLUMNS, pa.int64())
    schema = pa.schema([(column, types.get(column, pa.float64())) for column in columns])
    remaining = iter(rows)
    with parquet.ParquetWriter(file, schema) as writer:
        while some := list(islice(remaining, ROWS_AT_ONCE)):
            writer.write_table(pa.Table.from_pylist(some, schema=schema))


def write_textgrid(path: Path, rows: Sequence[Row], attributes: Sequence[str], seconds: float) -> None:
    """Write a TextGrid with a tier for each speaker and attribute, calibrated values as labels, or emotions.

    A tier's intervals can't overlap: each ends where the next one of its speaker begins.
    """
    from praatio.data_classes.interval_tier import IntervalTier
    from praatio.data_classes.textgrid import Textgrid

    end = max([seconds, *(row["end"] for row in rows)])
    grid = Textgrid(0, end)
    for speaker in dict.fromkeys(row["speaker"] for row in rows):
        own = sorted((row for row in rows if row["speaker"] == speaker), key=lambda row: row["start"])
        ends = [
            min(row["end"], after) for row, after in zip(own, [*(row["start"] for row in own[1:]), end], strict=True)
        ]
        for attribute in attributes or ["emotion"]:
            entries = [
                (row["start"], stop, f"{row[f'{attribute}_calibrated']:.2f}" if attributes else row["predicted"])
                for row, stop in zip(own, ends, strict=True)
                if stop > row["start"]
            ]
            name = attribute if speaker is None else f"{_one_line(speaker)} {attribute}"
            grid.addTier(IntervalTier(name, entries, 0, end))
    grid.save(str(path), format="long_textgrid", includeBlankSpaces=True, reportingMode="silence")


def write_labels(path: Path, rows: Sequence[Row], attributes: Sequence[str]) -> None:
    """Write labels as Audacity imports them: start, end, and the speaker with the calibrated values or the emotion."""
    lines = []
    for row in rows:
        values = [f"{attribute} {row[f'{attribute}_calibrated']:.2f}" for attribute in attributes] or [row["predicted"]]
        speaker = [] if row["speaker"] is None else [_one_line(row["speaker"])]
        lines.append(f"{row['start']:.6f}\t{row['end']:.6f}\t{' '.join(speaker + values)}\n")
    path.write_text("".join(lines), encoding="utf-8")


def _one_line(name: str) -> str:
    return " ".join(name.split())


def write_vectors(path: Path, rows: Iterable[Row], vectors: Iterator[bytes]) -> None:
    """Write the arrays file, start, end, speaker ("" where unknown) and vectors (utterances, dim), float32, as .npz."""
    places = [(row["file"], row["start"], row["end"], row["speaker"] or "") for row in rows]
    file, start, end, speaker = zip(*places, strict=True) if places else ((), (), (), ())
    stacked = np.frombuffer(b"".join(vectors), dtype=np.float32).reshape(len(places), -1 if places else 0)
    arrays = {"file": np.array(file, dtype=str), "start": np.array(start, dtype=np.float64)}
    arrays |= {"end": np.array(end, dtype=np.float64), "speaker": np.array(speaker, dtype=str), "vectors": stacked}
    # numpy.savez takes no array called file
    with atomic_file(path) as written, ZipFile(written, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)
