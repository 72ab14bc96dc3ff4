"""What `ser annotate` writes: a table, or a Praat TextGrid of each recording, and the utterances' vectors."""

from __future__ import annotations

import shutil
from collections import Counter
from importlib.util import find_spec
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from zipfile import ZipFile

import numpy as np

from ser_personal.corpus.table import write_rows
from ser_personal.errors import UserError
from ser_personal.files import atomic_file

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from ser_personal.recognition.recordings import Recording

    Row = Mapping[str, Any]


def is_textgrid(path: Path) -> bool:
    """Whether a name is that of TextGrids, not of a table."""
    return path.suffix.lower() == ".textgrid"


def check_format(path: Path) -> None:
    """Refuse a name that is neither of a table nor of TextGrids, and TextGrids where their library is missing."""
    if not is_textgrid(path) and path.suffix.lower() != ".csv":
        raise UserError(f"ends in {path.suffix!r}", where=path, remedy="Choose a name in .csv or .TextGrid")
    if is_textgrid(path) and find_spec("praatio") is None:
        raise UserError("needs the package praatio", where=path, remedy="`pip install praatio`, or choose .csv")


def check_stems(path: Path, recordings: Iterable[Recording]) -> None:
    """Refuse recordings whose TextGrids would have one name."""
    stems = Counter(Path(source).stem for source in {recording.source for recording in recordings})
    name, times = stems.most_common(1)[0]
    if is_textgrid(path) and times > 1:
        what = f"{times} recordings are called {name}"
        raise UserError(what, where=path, remedy="Annotate them one by one, or choose .csv")


def write_annotations(
    path: Path, rows: Iterable[Row], columns: Sequence[str], attributes: Sequence[str], recordings: Sequence[Recording]
) -> None:
    """Write rows by the ending of the name, all or nothing: a table of the columns, or a TextGrid of each recording.

    The rows of a recording come together; one without rows has no TextGrid. Of several recordings, `path` is a folder
    of TextGrids.
    """
    if not is_textgrid(path):
        write_rows(path, columns, ([row.get(column) for column in columns] for row in rows))
        return
    seconds = {recording.source: recording.seconds() for recording in recordings}
    with TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as scratch:
        folder = Path(scratch) / "files"
        folder.mkdir()
        for file, of_file in groupby(rows, key=itemgetter("file")):
            write_textgrid(folder / f"{Path(file).stem}{path.suffix}", [*of_file], attributes, seconds[file])
        if path.is_dir():
            shutil.rmtree(path)
        for written in [folder] if len(seconds) > 1 else folder.iterdir():
            written.replace(path)


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
