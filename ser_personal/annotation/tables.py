"""What `ser annotate` writes: a table, or of each recording a Praat TextGrid or Audacity's labels, and vectors."""

import json
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from itertools import groupby, islice
from operator import itemgetter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from zipfile import ZipFile

import numpy as np

from ser_personal.corpus.table import write_rows
from ser_personal.errors import UserError
from ser_personal.files import atomic_file
from ser_personal.recognition.recordings import Recording

Row = Mapping[str, Any]

ROW_GROUP = 10_000  # rows of Parquet that are in memory at a time
TABLES = (".csv", ".parquet", ".jsonl")
FORMATS = (*TABLES, ".TextGrid", ".txt")
_NEEDED = {".parquet": "pyarrow", ".textgrid": "praatio"}


def check_format(path: Path) -> None:
    """Refuse a name whose ending is of no format, or of one whose library is missing."""
    ending = path.suffix.lower()
    if ending not in map(str.lower, FORMATS):
        remedy = f"Choose a name that ends in {', '.join(FORMATS)}"
        raise UserError(f"ends in {path.suffix!r}", where=path, remedy=remedy)
    package = _NEEDED.get(ending)
    if package is not None and find_spec(package) is None:
        raise UserError(f"needs the package {package}", where=path, remedy=f"`pip install {package}`, or choose .csv")


def check_stems(path: Path, recordings: Iterable[Recording]) -> None:
    """Refuse recordings whose TextGrids or labels would have one name."""
    stems = Counter(Path(source).stem for source in {recording.source for recording in recordings})
    name, times = stems.most_common(1)[0]
    if path.suffix.lower() not in TABLES and times > 1:
        what = f"{times} recordings are called {name}"
        raise UserError(what, where=path, remedy="Annotate them one by one, or choose .csv")


def write_annotations(
    path: Path, rows: Iterable[Row], columns: Sequence[str], attributes: Sequence[str], recordings: Sequence[Recording]
) -> None:
    """Write rows by the ending of the name, all or nothing: a table of the columns, or a file of each recording.

    The rows of a recording come together; one without rows has no file. Of several recordings, `path` is a folder.
    """
    if path.suffix.lower() in TABLES:
        _write_table(path, iter(rows), columns)
        return
    seconds = {recording.source: recording.seconds() for recording in recordings}
    with TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as scratch:
        folder = Path(scratch) / "files"
        folder.mkdir()
        for file, of_file in groupby(rows, key=itemgetter("file")):
            one = folder / f"{Path(file).stem}{path.suffix}"
            if path.suffix.lower() == ".txt":
                _write_labels(one, of_file, attributes)
            else:
                _write_textgrid(one, [*of_file], attributes, seconds[file])
        if path.is_dir():
            shutil.rmtree(path)
        for written in [folder] if len(seconds) > 1 else folder.iterdir():
            written.replace(path)


def _write_table(path: Path, rows: Iterator[Row], columns: Sequence[str]) -> None:
    if path.suffix.lower() == ".csv":
        write_rows(path, columns, ([row.get(column) for column in columns] for row in rows))
    elif path.suffix.lower() == ".jsonl":
        with atomic_file(path) as file:
            file.writelines(f"{json.dumps(row, ensure_ascii=False, allow_nan=False)}\n".encode() for row in rows)
    else:
        import pyarrow as pa
        from pyarrow import parquet

        types = dict.fromkeys(("file", "speaker", "predicted"), pa.string())
        types |= dict.fromkeys(("calibration_utterances", "short"), pa.int64())
        schema = pa.schema([(column, types.get(column, pa.float64())) for column in columns])
        with atomic_file(path) as file, parquet.ParquetWriter(file, schema) as table:
            while group := [*islice(rows, ROW_GROUP)]:
                table.write_table(pa.Table.from_pylist(group, schema=schema))


def _write_labels(path: Path, rows: Iterable[Row], attributes: Sequence[str]) -> None:
    # start, end and text, as Audacity imports them
    lines = []
    for row in rows:
        values = [f"{attribute} {row[f'{attribute}_calibrated']:.2f}" for attribute in attributes] or [row["predicted"]]
        label = " ".join([row["speaker"] or "", *values])
        lines.append(f"{row['start']:.6f}\t{row['end']:.6f}\t{' '.join(label.split())}\n")
    path.write_text("".join(lines), encoding="utf-8")


def _write_textgrid(path: Path, rows: Sequence[Row], attributes: Sequence[str], seconds: float) -> None:
    from praatio.data_classes.interval_tier import IntervalTier
    from praatio.data_classes.textgrid import Textgrid

    end = max([seconds, *(row["end"] for row in rows)])
    grid = Textgrid(0, end)
    for speaker in dict.fromkeys(row["speaker"] for row in rows):
        own = sorted((row for row in rows if row["speaker"] == speaker), key=lambda row: row["start"])
        # a tier's intervals can't overlap: each ends where the next one of its speaker begins
        ends = [min(row["end"], after["start"]) for row, after in zip(own, [*own[1:], {"start": end}], strict=True)]
        for attribute in attributes or ["emotion"]:
            entries = [
                (row["start"], stop, f"{row[f'{attribute}_calibrated']:.2f}" if attributes else row["predicted"])
                for row, stop in zip(own, ends, strict=True)
                if stop > row["start"]
            ]
            name = attribute if speaker is None else f"{speaker} {attribute}"
            grid.addTier(IntervalTier(name, entries, 0, end))
    grid.save(str(path), format="long_textgrid", includeBlankSpaces=True, reportingMode="silence")


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
