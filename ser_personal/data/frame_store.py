"""Folders of arrays that grow utterance by utterance; whenever their writer is killed, what is whole is known.

A folder holds three files:

- the rows of all utterances one after another, little-endian, memory-mapped when read;
- `utterances.jsonl`: one `["utterance_id", rows]` a line, in the order of the rows, perhaps with a note behind;
- `meta.json`: the format's version, where the rows come from, and whether they are complete.

Rows are flushed before the line that counts them, so that whatever moment a writer is killed at, the whole lines whose
rows exist are what was written.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, get_type_hints

import numpy as np

from ser_personal.audio import FRAME_RATE
from ser_personal.errors import UserError, require_range
from ser_personal.files import atomic_write, named_in_errors
from ser_personal.types import FeatureSource

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from types import TracebackType

    from numpy.typing import NDArray

# a frozen dataclass of plain values
Source = TypeVar("Source")
LINES, META = "utterances.jsonl", "meta.json"


@dataclass(frozen=True)
class FolderKind(Generic[Source]):
    """What is kept in such a folder, and what messages call it.

    Attributes:
        source: the class that says where rows come from.
        rows_file: name of the file of rows.
        contents: what they are, in the plural.
        made_by: the command that writes them.
        made_from: what must not be mixed in one folder.
        format_version: of what is written now, the only one that is read.
    """

    source: type[Source]
    rows_file: str
    contents: str
    made_by: str
    made_from: str
    format_version: int = 1


@dataclass(frozen=True)
class Entry:
    """One utterance of a folder.

    Attributes:
        utterance_id: whose rows.
        rows: how many.
        note: what else its writer said of it, None where nothing.
    """

    utterance_id: str
    rows: int
    note: str | None = None

    @property
    def line(self) -> bytes:
        """As it stands in `utterances.jsonl`."""
        note = [] if self.note is None else [self.note]
        return json.dumps([self.utterance_id, self.rows, *note]).encode() + b"\n"


class GrowingFolder(Generic[Source]):
    """Reads such a folder, finished or not.

    Args:
        folder: where it is, or will be.
        kind: what is kept in it.
    """

    def __init__(self, folder: str | Path, kind: FolderKind[Source]) -> None:
        self.folder, self.kind = Path(folder), kind

    @property
    def rows_path(self) -> Path:
        """The file of rows."""
        return self.folder / self.kind.rows_file

    @property
    def lines_path(self) -> Path:
        """The list of utterances."""
        return self.folder / LINES

    @property
    def bytes_of_rows(self) -> int:
        """Size of the file of rows, 0 where there is none."""
        return self.rows_path.stat().st_size if self.rows_path.exists() else 0

    def finished_source(self) -> Source:
        """Read what the rows come from.

        Raises:
            UserError: the folder is missing, unfinished, damaged, or of another format.
        """
        meta, contents, made_by = self._read_meta(), self.kind.contents, self.kind.made_by
        if meta is None:
            remedy = f"Write them with {made_by}, or give the folder it wrote"
            raise UserError(f"no {contents} here", where=self.folder, remedy=remedy)
        if not meta["finished"]:
            raise UserError(
                f"these {contents} are only half written",
                where=self.folder,
                remedy=f"Run the same {made_by} again: it goes on where it stopped",
            )
        return self.kind.source(**meta["source"])

    def is_finished(self, source: Source) -> bool:
        """Whether the folder holds all rows of a source."""
        meta = self._read_meta()
        return meta is not None and meta["finished"] and meta["source"] == _plain(source)

    def refuse_other_source(self, source: Source) -> None:
        """Keep the rows of two sources apart.

        Raises:
            UserError: the folder holds those of another one.
        """
        meta = self._read_meta()
        if meta is not None and meta["source"] != _plain(source):
            raise UserError(
                f"holds {self.kind.contents} of another {self.kind.made_from}",
                where=self.folder,
                remedy="Give another folder, or delete this one",
            )

    def declare(self, source: Source, *, finished: bool) -> None:
        """Say where the rows come from, and whether they are complete."""
        meta = {"format_version": self.kind.format_version, "finished": finished, "source": _plain(source)}
        atomic_write(self.folder / META, json.dumps(meta, indent=2).encode())

    def entries(self) -> list[Entry]:
        """List the utterances in the order of writing; a line that a killed writer left half is left out."""
        if not self.lines_path.exists():
            return []
        lines = self.lines_path.read_bytes().rpartition(b"\n")[0].splitlines()
        return [self._entry(line, number) for number, line in enumerate(lines, start=1)]

    def whole_entries(self, row_bytes: int) -> list[Entry]:
        """List the utterances whose rows are there, which a crash of the machine may have lost."""
        entries = self.entries()
        ends = row_bytes * np.cumsum([entry.rows for entry in entries], dtype=np.int64)
        return entries[: int(np.searchsorted(ends, self.bytes_of_rows, side="right"))]

    def damaged(self, what: str, where: object = None) -> UserError:
        """Make the error that says what is wrong with the files."""
        return UserError(
            f"{self.kind.contents} are damaged: {what}",
            where=where or self.folder,
            remedy=f"Copy the folder again, or run {self.kind.made_by} again into a new one",
        )

    def _entry(self, line: bytes, number: int) -> Entry:
        where = f"{self.lines_path}, line {number}"
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise self.damaged("no utterance and its frames", where) from error
        match entry:
            case [str(utterance_id), int(rows)] if rows >= 0:
                return Entry(utterance_id, rows)
            case [str(utterance_id), int(rows), str(note)] if rows >= 0:
                return Entry(utterance_id, rows, note)
        raise self.damaged("no utterance and its frames", where)

    def _read_meta(self) -> dict[str, Any] | None:
        path = self.folder / META
        if not path.exists():
            return None
        try:
            meta = json.loads(path.read_text())
        except (ValueError, RecursionError) as error:
            raise self.damaged("isn't valid JSON", path) from error
        version = self.kind.format_version
        if not isinstance(meta, dict) or meta.get("format_version") != version:
            raise UserError(
                f"these are not {self.kind.contents} of format {version}",
                where=self.folder,
                remedy=f"Write them again with this version's {self.kind.made_by}",
            )
        if not isinstance(meta.get("finished"), bool) or not self._describes_source(meta.get("source")):
            raise self.damaged("doesn't say what made them", path)
        return meta

    def _describes_source(self, source: object) -> bool:
        wanted = get_type_hints(self.kind.source)
        return (
            isinstance(source, dict)
            and source.keys() == wanted.keys()
            and all(isinstance(source[name], (int, float) if kind is float else kind) for name, kind in wanted.items())
        )


def places(entries: Sequence[Entry]) -> dict[str, slice]:
    """Find the rows of each utterance."""
    ends = np.cumsum([entry.rows for entry in entries]).tolist()
    return {entry.utterance_id: slice(end - entry.rows, end) for entry, end in zip(entries, ends, strict=True)}


def _plain(source: Any) -> dict[str, Any]:
    return asdict(source)


class GrowingWriter(Generic[Source]):
    """Appends utterance after utterance; opened again after an interruption, goes on after the last whole one.

    `utterance_id in writer` says what is written already. Used as a context manager it closes its files; only `finish`
    declares the folder complete.

    Args:
        place: the folder, created where missing.
        source: must be the same as what the folder already holds.
        row_bytes: size of a row.

    Raises:
        UserError: the folder holds the rows of another source.
    """

    def __init__(self, place: GrowingFolder[Source], source: Source, row_bytes: int) -> None:
        self._place, self.source = place, source
        self.folder = place.folder
        self.folder.mkdir(parents=True, exist_ok=True)
        place.refuse_other_source(source)
        entries = place.whole_entries(row_bytes)
        self._written = {entry.utterance_id: entry.note for entry in entries}
        place.declare(source, finished=False)
        self._rows_file = place.rows_path.open("ab")
        self._rows_file.truncate(sum(entry.rows for entry in entries) * row_bytes)
        self._lines_file = place.lines_path.open("ab")
        self._lines_file.truncate(sum(len(entry.line) for entry in entries))

    def __contains__(self, utterance_id: object) -> bool:
        return utterance_id in self._written

    def append(self, rows: NDArray[np.generic], utterance_id: str, note: str | None = None) -> None:
        """Append the rows (rows, ...) of one utterance, as they are to lie on disk.

        Raises:
            ValueError: the utterance is written already.
        """
        if utterance_id in self._written:
            msg = f"{utterance_id} is written already"
            raise ValueError(msg)
        with named_in_errors(self.folder):
            self._rows_file.write(rows.tobytes())
            self._rows_file.flush()
            self._lines_file.write(Entry(utterance_id, len(rows), note).line)
            self._lines_file.flush()
        self._written[utterance_id] = note

    def finish(self) -> None:
        """Declare the folder complete: only from now on is it read."""
        with named_in_errors(self.folder):
            for file in (self._rows_file, self._lines_file):
                os.fsync(file.fileno())
        self.close()
        self._place.declare(self.source, finished=True)

    def close(self) -> None:
        """Close the files; the folder stays unfinished unless `finish` was called."""
        try:
            self._rows_file.close()
        finally:
            self._lines_file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


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


PSEUDO_LABELS = FolderKind(PseudoLabelSource, "ids.uint16", "pseudo-labels", "`ser kmeans`", "teacher or codebook")


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
        place = GrowingFolder(folder, PSEUDO_LABELS)
        source = place.finished_source()
        if source.frame_rate != FRAME_RATE:
            raise UserError(
                f"pseudo-labels have {source.frame_rate} frames a second, HuBERT makes {FRAME_RATE}",
                where=folder,
                remedy="Write them again with `ser kmeans`",
            )
        entries = place.entries()
        total = sum(entry.rows for entry in entries)
        if not total or place.bytes_of_rows != total * BYTES_PER_ID:
            raise place.damaged(f"{place.bytes_of_rows} bytes of ids for {total} frames")
        return cls(place.folder, source, np.memmap(place.rows_path, dtype="<u2", mode="r"), places(entries))

    @classmethod
    def load_part(cls, folder: str | Path, source: PseudoLabelSource) -> Self:
        """Map the utterances that a writer has written whole by now, whether it was killed, goes on or is done.

        Raises:
            UserError: the folder holds the pseudo-labels of another source, or is damaged.
        """
        place = GrowingFolder(folder, PSEUDO_LABELS)
        place.refuse_other_source(source)
        entries = place.whole_entries(BYTES_PER_ID)
        holds_any = any(entry.rows for entry in entries)
        ids = np.memmap(place.rows_path, dtype="<u2", mode="r") if holds_any else np.empty(0, dtype=np.uint16)
        return cls(place.folder, source, ids, places(entries))

    @property
    def utterance_ids(self) -> list[str]:
        """Whose ids these are, in the order they lie in."""
        return list(self._places)

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


class PseudoLabelWriter(GrowingWriter[PseudoLabelSource]):
    """Appends utterance after utterance; opened again after an interruption, goes on after the last whole one.

    Args:
        folder: created where missing.
        source: must be the same as what the folder already holds.

    Raises:
        UserError: the folder holds the pseudo-labels of another source.
    """

    def __init__(self, folder: str | Path, source: PseudoLabelSource) -> None:
        super().__init__(GrowingFolder(folder, PSEUDO_LABELS), source, BYTES_PER_ID)

    def write(self, utterance_id: str, ids: NDArray[np.integer]) -> None:
        """Append the ids (frames,) of one utterance.

        Raises:
            ValueError: the utterance is written already, or an id lies outside 0..K-1.
        """
        if ids.size and not 0 <= int(ids.min()) <= int(ids.max()) < self.source.num_clusters:
            msg = f"{utterance_id}: ids outside 0..{self.source.num_clusters - 1}"
            raise ValueError(msg)
        self.append(ids.astype("<u2"), utterance_id)


class PseudoLabelShards:
    """The shards of one folder of pseudo-labels.

    Args:
        folder: what will hold the pseudo-labels.
        source: what makes them.
    """

    def __init__(self, folder: str | Path, source: PseudoLabelSource) -> None:
        self.folder, self.source = Path(folder), source

    @property
    def are_joined(self) -> bool:
        """Whether the folder is finished."""
        return GrowingFolder(self.folder, PSEUDO_LABELS).is_finished(self.source)

    def begin(self) -> set[str]:
        """Declare the folder unfinished, and say which utterances are written already.

        Raises:
            UserError: the folder holds the pseudo-labels of another source.
        """
        PseudoLabelWriter(self.folder, self.source).close()
        return {utterance_id for part in self._parts() for utterance_id in part.utterance_ids}

    def writer(self, process: int) -> PseudoLabelWriter:
        """Open the shard of the process of that number; it goes on after what lies in it."""
        return PseudoLabelWriter(self._shards / str(process), self.source)

    def join(self, utterance_ids: Iterable[str]) -> None:
        """Finish the folder, its utterances in the given order, and remove the shards.

        Raises:
            UserError: an utterance is in no shard.
        """
        parts = self._parts()
        with PseudoLabelWriter(self.folder, self.source) as writer:
            for utterance_id in utterance_ids:
                if utterance_id in writer:
                    continue
                part = next((part for part in parts if utterance_id in part), None)
                if part is None:
                    raise UserError(
                        f"no process wrote the pseudo-labels of {utterance_id}",
                        where=self._shards,
                        remedy="Give an --out that all machines share, and run the same `ser kmeans` again",
                    )
                writer.write(utterance_id, part[utterance_id])
            writer.finish()
        self.clear()

    def clear(self) -> None:
        """Remove the shards of a finished folder; a run that was killed at the very end leaves them."""
        shutil.rmtree(self._shards, ignore_errors=True)

    @property
    def _shards(self) -> Path:
        return self.folder / "shards"

    def _parts(self) -> list[PseudoLabels]:
        return [PseudoLabels.load_part(folder, self.source) for folder in (self.folder, *self._shards.glob("*"))]


BYTES_PER_VALUE = 2
FEATURES = FolderKind(
    FeatureSource, "frames.float16", "cached features", "`ser cache`", "encoder, layer, stride or length"
)
_KEYED_BYTES = 4096


class FeatureCache:
    """The frames of a whole corpus, read as they are asked for: `cache[utterance_id]` is (frames, dim) float16.

    Attributes:
        folder: where they lie.
        source: what made them.
    """

    def __init__(
        self,
        folder: Path,
        source: FeatureSource,
        frames: NDArray[np.float16],
        rows_of: dict[str, slice],
        audio_of: dict[str, str | None],
    ) -> None:
        self.folder, self.source = folder, source
        self._frames, self._rows_of, self._audio_of = frames, rows_of, audio_of

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Map a finished folder into memory.

        Raises:
            UserError: the folder is missing, unfinished, damaged or of another format.
        """
        place = GrowingFolder(folder, FEATURES)
        source = place.finished_source()
        entries = place.entries()
        total = sum(entry.rows for entry in entries)
        if not total or place.bytes_of_rows != total * source.dim * BYTES_PER_VALUE:
            raise place.damaged(f"{place.bytes_of_rows} bytes for {total} frames of {source.dim} values")
        frames = np.memmap(place.rows_path, dtype="<f2", mode="r", shape=(total, source.dim))
        audio_of = {entry.utterance_id: entry.note for entry in entries}
        return cls(place.folder, source, frames, places(entries), audio_of)

    def __getitem__(self, utterance_id: str) -> NDArray[np.float16]:
        return self._frames[self._rows_of[utterance_id]]

    def __contains__(self, utterance_id: object) -> bool:
        return utterance_id in self._rows_of

    def __len__(self) -> int:
        """Count the utterances."""
        return len(self._rows_of)

    @property
    def total_frames(self) -> int:
        """Count the frames of all utterances."""
        return len(self._frames)

    def num_frames(self, utterance_id: str) -> int:
        """Count an utterance's frames without reading them."""
        rows = self._rows_of[utterance_id]
        return int(rows.stop - rows.start)

    def is_of(self, utterance_id: str, audio: Path) -> bool:
        """Whether the utterance's frames come from what this audio file holds now; taken for granted without either."""
        key = self._audio_of[utterance_id]
        return key is None or not audio.is_file() or key == audio_key(audio)

    def __reduce__(self) -> tuple[Callable[[Path], FeatureCache], tuple[Path]]:
        """A loader's worker maps the file anew; pickling a memory map would copy it."""
        return (type(self).load, (self.folder,))


class FeatureCacheWriter(GrowingWriter[FeatureSource]):
    """Appends utterance after utterance; opened again after an interruption, goes on after the last whole one.

    For the frames of any tool: `utterance_id in writer` says what is written already, and `finish` declares the folder
    complete.

    Args:
        folder: created where missing.
        source: what makes the frames; must be the same as what the folder already holds.

    Raises:
        UserError: the folder holds the frames of another source, or a number in `source` is out of its range.
    """

    def __init__(self, folder: str | Path, source: FeatureSource) -> None:
        require_range("dim", source.dim, 1)
        require_range("frame_seconds", source.frame_seconds, 0, above=True)
        super().__init__(GrowingFolder(folder, FEATURES), source, source.dim * BYTES_PER_VALUE)

    def holds(self, utterance_id: str, audio: Path) -> bool:
        """Whether an utterance is written already.

        Raises:
            UserError: it is, but was made of other audio.
        """
        if utterance_id not in self:
            return False
        key = self._written[utterance_id]
        if key is not None and key != audio_key(audio):
            raise UserError(
                "audio has changed since its features were written",
                where=audio,
                remedy=f"Give another folder than {self.folder}, or delete that one",
            )
        return True

    def write(self, utterance_id: str, frames: NDArray[np.floating[Any]], audio: Path | None = None) -> None:
        """Append the frames (frames, dim) of one utterance.

        Args:
            utterance_id: as the corpus names it.
            frames: at least one.
            audio: the file they come from, so that training notices where it has changed since.

        Raises:
            UserError: a value is no finite number of half precision.
            ValueError: the utterance is written already, or the frames are of another shape.
        """
        if frames.ndim != 2 or len(frames) == 0 or frames.shape[1] != self.source.dim:
            msg = f"{utterance_id}: {frames.shape} is not (frames, {self.source.dim})"
            raise ValueError(msg)
        with np.errstate(over="ignore"):
            halves = frames.astype("<f2")
        if not np.isfinite(halves).all():
            raise UserError(
                "a value is NaN, infinite or above 65504, which two bytes don't hold",
                where=f"features of {utterance_id}",
                remedy="Scale them down, or take another layer",
            )
        self.append(halves, utterance_id, None if audio is None else audio_key(audio))


def audio_key(path: Path) -> str:
    """Tell apart what audio files hold by their size and 4 KiB of their middle, 16 hex digits."""
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(0, (size - _KEYED_BYTES) // 2))
        return blake2b(file.read(_KEYED_BYTES), digest_size=8, salt=size.to_bytes(16, "little")).hexdigest()


def strided(frames: NDArray[np.float32], stride: int, reduction: str) -> NDArray[np.float32]:
    """Make one frame of every `stride`: (frames, dim) -> fewer; the last is made of as many as are left.

    Args:
        frames: (frames, dim), real ones alone.
        stride: how many become one.
        reduction: `mean`, or `first`.
    """
    starts = np.arange(0, len(frames), stride)
    if reduction == "first":
        return frames[starts]
    counts = np.diff(starts, append=len(frames)).astype(np.float32)
    sums: NDArray[np.float32] = np.add.reduceat(frames, starts, axis=0, dtype=np.float32)
    return (sums / counts[:, None]).astype(np.float32)
