"""Pseudo-labels on disk: the k-means id of every frame of every utterance, two bytes each.

A folder holds three files:

- `ids.uint16`: the ids of all utterances one after another, little-endian, memory-mapped when read;
- `utterances.jsonl`: one `["utterance_id", frames]` a line, in the order of `ids.uint16`;
- `meta.json`: where the ids come from, and whether they are complete.

`ids.uint16` is flushed before the line that counts it, so that whatever moment a writer is killed at, the whole lines
whose ids exist are what was written.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from ser_personal.audio import FRAME_RATE
from ser_personal.errors import UserError
from ser_personal.files import write_whole

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from numpy.typing import NDArray

FORMAT_VERSION = 1
MAX_CLUSTERS = 2**16
BYTES_PER_ID = 2


@dataclass(frozen=True)
class PseudoLabelSource:
    """What made the ids.

    Attributes:
        num_clusters: K.
        teacher: the features that were clustered, as a person would name them ("mfcc", "facebook/hubert-base-ls960").
        codebook_hash: of the centroids.
        teacher_layer: 1-based encoder layer L, None where the teacher has no layers.
        frame_rate: frames a second.
    """

    num_clusters: int
    teacher: str
    codebook_hash: str
    teacher_layer: int | None = None
    frame_rate: int = FRAME_RATE

    def __post_init__(self) -> None:
        if not 1 <= self.num_clusters <= MAX_CLUSTERS:
            raise UserError(
                f"{self.num_clusters} clusters don't fit two bytes a frame",
                remedy=f"Ask for 1 to {MAX_CLUSTERS} clusters",
            )


class PseudoLabels:
    """The ids of a whole corpus, read as they are asked for: `labels[utterance_id]` is (frames,) uint16.

    Attributes:
        folder: where they lie.
        source: what made them.
    """

    def __init__(
        self, folder: Path, source: PseudoLabelSource, ids: NDArray[np.uint16], places: dict[str, slice]
    ) -> None:
        self.folder, self.source = folder, source
        self._ids, self._places = ids, places

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Map a finished folder into memory.

        Raises:
            UserError: the folder is missing, unfinished, damaged, or of another format or frame rate.
        """
        folder = Path(folder)
        source = _finished_source(folder)
        counts = _read_counts(folder)
        total = sum(counts.values())
        ids_path = folder / "ids.uint16"
        size = ids_path.stat().st_size if ids_path.exists() else 0
        if not total or size != total * BYTES_PER_ID:
            raise _damaged(folder, f"{size} bytes of ids for {total} frames")
        return cls(folder, source, np.memmap(ids_path, dtype="<u2", mode="r"), _places(counts))

    @property
    def num_clusters(self) -> int:
        """K; ids run from 0 to K - 1."""
        return self.source.num_clusters

    def __getitem__(self, utterance_id: str) -> NDArray[np.uint16]:
        return self._ids[self._places[utterance_id]]

    def __contains__(self, utterance_id: object) -> bool:
        return utterance_id in self._places

    def __len__(self) -> int:
        """Count the utterances."""
        return len(self._places)

    def __reduce__(self) -> tuple[Callable[[Path], PseudoLabels], tuple[Path]]:
        """A loader's worker maps the file anew; pickling a memory map would copy it."""
        return (type(self).load, (self.folder,))


class PseudoLabelWriter:
    """Appends utterance after utterance; opened again after an interruption, goes on after the last whole one.

    `utterance_id in writer` says what is written already. Used as a context manager it closes its files; only `finish`
    declares the folder complete.

    Args:
        folder: created where missing.
        source: must be the same as what the folder already holds.

    Raises:
        UserError: the folder holds the pseudo-labels of another source.
    """

    def __init__(self, folder: str | Path, source: PseudoLabelSource) -> None:
        self.folder, self.source = Path(folder), source
        self.folder.mkdir(parents=True, exist_ok=True)
        meta = _read_meta(self.folder)
        if meta is not None and meta["source"] != asdict(source):
            raise UserError(
                "holds pseudo-labels of another teacher or codebook",
                where=self.folder,
                remedy="Give another folder, or delete this one",
            )
        counts = _fitting(_read_counts(self.folder), self.folder / "ids.uint16")
        self._written = set(counts)
        _write_meta(self.folder, source, finished=False)
        self._ids_file = (self.folder / "ids.uint16").open("ab")
        self._ids_file.truncate(sum(counts.values()) * BYTES_PER_ID)
        self._lines_file = (self.folder / "utterances.jsonl").open("ab")
        self._lines_file.truncate(sum(len(_line(*count)) for count in counts.items()))

    def __contains__(self, utterance_id: object) -> bool:
        return utterance_id in self._written

    def write(self, utterance_id: str, ids: NDArray[np.integer]) -> None:
        """Append the ids (frames,) of one utterance.

        Raises:
            ValueError: the utterance is written already, or an id lies outside 0..K-1.
        """
        if utterance_id in self._written:
            msg = f"{utterance_id} is written already"
            raise ValueError(msg)
        if ids.size and not 0 <= int(ids.min()) <= int(ids.max()) < self.source.num_clusters:
            msg = f"{utterance_id}: ids outside 0..{self.source.num_clusters - 1}"
            raise ValueError(msg)
        self._ids_file.write(ids.astype("<u2").tobytes())
        self._ids_file.flush()
        self._lines_file.write(_line(utterance_id, len(ids)))
        self._lines_file.flush()
        self._written.add(utterance_id)

    def finish(self) -> None:
        """Declare the folder complete: from now on `PseudoLabels.load` reads it."""
        for file in (self._ids_file, self._lines_file):
            os.fsync(file.fileno())
        self.close()
        _write_meta(self.folder, self.source, finished=True)

    def close(self) -> None:
        """Close the files; the folder stays unfinished unless `finish` was called."""
        self._ids_file.close()
        self._lines_file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _line(utterance_id: str, frames: int) -> bytes:
    return json.dumps([utterance_id, frames]).encode() + b"\n"


def _read_counts(folder: Path) -> dict[str, int]:
    """Utterance -> frames in the order of writing; a line that a killed writer left half is left out."""
    path = folder / "utterances.jsonl"
    if not path.exists():
        return {}
    lines = path.read_bytes().rpartition(b"\n")[0].splitlines()
    return dict(_count(line, f"{path}, line {number}") for number, line in enumerate(lines, start=1))


def _count(line: bytes, where: str) -> tuple[str, int]:
    try:
        match json.loads(line):
            case [str(utterance_id), int(frames)] if frames >= 0:
                return utterance_id, frames
    except (ValueError, RecursionError) as error:
        raise _damaged(where, "no utterance and its frames") from error
    raise _damaged(where, "no utterance and its frames")


def _fitting(counts: dict[str, int], ids_path: Path) -> dict[str, int]:
    """Leave out the utterances whose ids a crash of the machine lost."""
    available = ids_path.stat().st_size if ids_path.exists() else 0
    ends = BYTES_PER_ID * np.cumsum(list(counts.values()), dtype=np.int64)
    fitting = int(np.searchsorted(ends, available, side="right"))
    return dict(list(counts.items())[:fitting])


def _places(counts: dict[str, int]) -> dict[str, slice]:
    ends = np.cumsum(list(counts.values())).tolist()
    return {
        utterance_id: slice(end - frames, end) for (utterance_id, frames), end in zip(counts.items(), ends, strict=True)
    }


def _read_meta(folder: Path) -> dict[str, Any] | None:
    path = folder / "meta.json"
    if not path.exists():
        return None
    try:
        meta = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise _damaged(path, "isn't valid JSON") from error
    if not isinstance(meta, dict) or meta.get("format_version") != FORMAT_VERSION:
        raise UserError(
            f"these are not pseudo-labels of format {FORMAT_VERSION}",
            where=folder,
            remedy="Write them again with this version's `ser kmeans`",
        )
    if not isinstance(meta.get("finished"), bool) or not _describes_source(meta.get("source")):
        raise _damaged(path, "doesn't say what made them")
    return meta


def _describes_source(source: object) -> bool:
    wanted = {"num_clusters": int, "teacher": str, "codebook_hash": str, "teacher_layer": int | None, "frame_rate": int}
    return (
        isinstance(source, dict)
        and source.keys() == wanted.keys()
        and all(isinstance(source[name], kind) for name, kind in wanted.items())
    )


def _damaged(where: object, what: str) -> UserError:
    remedy = "Copy the folder again, or run `ser kmeans` again into a new one"
    return UserError(f"pseudo-labels are damaged: {what}", where=where, remedy=remedy)


def _write_meta(folder: Path, source: PseudoLabelSource, *, finished: bool) -> None:
    meta = {"format_version": FORMAT_VERSION, "finished": finished, "source": asdict(source)}
    write_whole(folder / "meta.json", json.dumps(meta, indent=2).encode())


def _finished_source(folder: Path) -> PseudoLabelSource:
    meta = _read_meta(folder)
    if meta is None:
        raise UserError(
            "no pseudo-labels here", where=folder, remedy="Write them with `ser kmeans`, or give the folder it wrote"
        )
    if not meta["finished"]:
        raise UserError(
            "these pseudo-labels are only half written",
            where=folder,
            remedy="Run the same `ser kmeans` again: it goes on where it stopped",
        )
    source = PseudoLabelSource(**meta["source"])
    if source.frame_rate != FRAME_RATE:
        raise UserError(
            f"pseudo-labels have {source.frame_rate} frames a second, HuBERT makes {FRAME_RATE}",
            where=folder,
            remedy="Write them again with `ser kmeans`",
        )
    return source
