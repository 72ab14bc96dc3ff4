"""Arrays of a corpus's utterances on disk: pseudo-labels and cached features.

A folder holds `meta.json`, which says what made the arrays and whether all are there, and a safetensors file per batch
of utterances. Each file is written atomically: a writer that is killed leaves whole batches, and the same command then
writes those that are missing.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Self, TypeVar

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from typing_extensions import override

from ser_personal.audio import FRAME_RATE, num_frames
from ser_personal.data.dataset import samples_of
from ser_personal.errors import UserError, require_range
from ser_personal.files import atomic_write, content_hash, file_key, sampled_hash
from ser_personal.types import MAX_CLUSTERS, FeatureSource, pack_hashes, unpack_hashes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from _typeshed import DataclassInstance
    from numpy.typing import NDArray

    from ser_personal.types import Utterance

META, BATCHES = "meta.json", "batch-*.safetensors"
FORMAT_VERSION = 5
OPEN_FILES = 64

# a frozen dataclass of plain values
Source = TypeVar("Source", bound="DataclassInstance")


class FrameStore(ABC, Generic[Source]):
    """An array (frames, ...) an utterance, read from disk at each `store[utterance_id]`.

    `load` opens a complete folder; `create` one to write into, where `utterance_id in store` says what is stored.
    """

    source_type: ClassVar[type]
    dtype: ClassVar[str]
    # what messages call the arrays, the command that writes them, and what must not be mixed
    contents: ClassVar[str]
    command: ClassVar[str]
    made_from: ClassVar[str]
    frame_shape: tuple[int, ...] = ()

    def __init__(self, folder: str | Path, source: Source) -> None:
        self.folder, self.source = Path(folder), source
        # hashes (`utterance_hashes`) of the utterances that the encoder was adapted or trained on
        self.trained_on: frozenset[str] = frozenset()
        self._finished = False
        self._file_of: dict[str, Path] = {}
        self._frames_of: dict[str, int] = {}
        self._audio_of: dict[str, str] = {}
        self._open: Callable[[Path], Any] = lru_cache(OPEN_FILES)(partial(safe_open, framework="numpy"))
        for path in sorted(self.folder.glob(BATCHES)):
            self._index(path)

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Open a complete folder."""
        meta = cls._read_meta(Path(folder))
        if meta is None:
            remedy = f"Write them with {cls.command}, or give the folder it wrote"
            raise UserError(f"no {cls.contents} here", where=folder, remedy=remedy)
        if not meta.get("finished"):
            remedy = f"Run the same {cls.command} again: it resumes where it stopped"
            raise UserError(f"these {cls.contents} are only half written", where=folder, remedy=remedy)
        try:
            store = cls(folder, cls.source_type(**meta["source"]))
            store.trained_on = unpack_hashes(meta["trained_on"])
        except (KeyError, OverflowError, TypeError) as error:
            raise cls._damaged(f"{META} doesn't say what made them", folder) from error
        if len(store) != meta.get("utterances"):
            raise cls._damaged(f"{len(store)} of {meta.get('utterances')} utterances are there", folder)
        return store

    @classmethod
    def create(cls, folder: str | Path, source: Source, trained_on: frozenset[str] = frozenset()) -> Self:
        """Open a folder for writing; what an earlier run of the same source wrote stays."""
        meta = cls._read_meta(Path(folder))
        if meta is not None and meta.get("source") != asdict(source):
            what = f"holds {cls.contents} of another {cls.made_from}"
            raise UserError(what, where=folder, remedy="Give another folder, or delete this one")
        store = cls(folder, source)
        store.trained_on = trained_on
        store._finished = meta is not None and meta.get("finished") is True
        if not store._finished:
            store._declare(finished=False)
        return store

    def write(self, arrays: Mapping[str, NDArray[Any]], audio: Mapping[str, Utterance] | None = None) -> None:
        """Write a batch of utterances as one file; those that are stored already stay as they are.

        Each has ids (frames,) or frames (frames, dim), at least one. By their audio, training notices when it changes.
        """
        new = {id_: np.ascontiguousarray(self._to_store(id_, arrays[id_])) for id_ in arrays if id_ not in self}
        if new:
            if self._finished:
                self._declare(finished=False)
            path = self.folder / BATCHES.replace("*", content_hash(*new))
            # One entry: safetensors writes several in an order that changes from run to run.
            metadata = {"audio": json.dumps({id_: audio_key(audio[id_]) for id_ in new})} if audio else None
            atomic_write(path, save(new, metadata=metadata))
            self._index(path)

    @abstractmethod
    def _to_store(self, utterance_id: str, array: NDArray[Any]) -> NDArray[Any]: ...

    def check(self, utterances: Sequence[Utterance]) -> None:
        """Refuse utterances that aren't stored, or whose audio has changed; missing audio is fine."""
        missing = [utterance.utterance_id for utterance in utterances if utterance.utterance_id not in self]
        if missing:
            what = f"no {self.contents} of {len(missing)} of {len(utterances)} utterances, {missing[0]} the first"
            raise UserError(what, where=self.folder, remedy=self._made_again())
        self.refuse_changed(utterances)

    def refuse_changed(self, utterances: Iterable[Utterance]) -> None:
        """Refuse audio that is another than stored frames were made from; missing audio is fine."""
        for utterance in utterances:
            key = self._audio_of.get(utterance.utterance_id)
            if key is not None and utterance.path.is_file() and key != audio_key(utterance):
                what = f"audio has changed since its {self.contents} in {self.folder} were made"
                raise UserError(what, where=utterance.path, remedy=self._made_again())

    def _made_again(self) -> str:
        return f"Run {self.command} on all splits of this corpus into a new folder, and give that"

    def finish(self, utterance_ids: Iterable[str] = ()) -> None:
        """Declare the folder complete, after which it can be loaded."""
        missing = [id_ for id_ in utterance_ids if id_ not in self]
        if missing:
            remedy = f"Give an --out that all machines share, and run the same {self.command} again"
            raise UserError(f"no process wrote the {self.contents} of {missing[0]}", where=self.folder, remedy=remedy)
        self._declare(finished=True)

    def __getitem__(self, utterance_id: str) -> NDArray[Any]:
        array: NDArray[Any] = self._open(self._file_of[utterance_id]).get_tensor(utterance_id)
        return array

    def __contains__(self, utterance_id: object) -> bool:
        return utterance_id in self._file_of

    def __iter__(self) -> Iterator[str]:
        return iter(self._file_of)

    def __len__(self) -> int:
        return len(self._file_of)

    def key_of(self, utterance_id: str) -> str:
        """Tell an utterance's array from others of this source by its audio, where that isn't known by its file."""
        return self._audio_of.get(utterance_id) or file_key(self._file_of[utterance_id])

    def num_frames(self, utterance_id: str) -> int:
        """Count an utterance's frames without reading them."""
        return self._frames_of[utterance_id]

    def __reduce__(self) -> tuple[Callable[[Path], FrameStore[Source]], tuple[Path]]:
        # a loader's worker opens the files itself
        return (type(self).load, (self.folder,))

    def _index(self, path: Path) -> None:
        try:
            with safe_open(path, framework="numpy") as file:
                for utterance_id in file.keys():  # noqa: SIM118  # no dict
                    array = file.get_slice(utterance_id)
                    frames, *shape = array.get_shape()
                    if (array.get_dtype(), tuple(shape)) != (self.dtype, self.frame_shape):
                        raise self._damaged(f"array {utterance_id} has another type or shape", path)
                    self._file_of[utterance_id], self._frames_of[utterance_id] = path, frames
                self._audio_of |= json.loads((file.metadata() or {}).get("audio", "{}"))
        except (SafetensorError, ValueError, TypeError, RecursionError) as error:
            raise self._damaged(f"not arrays of utterances ({str(error).splitlines()[0]})", path) from error

    def _declare(self, *, finished: bool) -> None:
        self._finished = finished
        meta = {
            "format_version": FORMAT_VERSION,
            "finished": finished,
            "utterances": len(self) if finished else None,
            "source": asdict(self.source),
            "trained_on": pack_hashes(self.trained_on),
        }
        atomic_write(self.folder / META, json.dumps(meta, indent=2).encode())

    @classmethod
    def _read_meta(cls, folder: Path) -> dict[str, Any] | None:
        path = folder / META
        if not path.exists():
            return None
        meta = None
        with suppress(ValueError, RecursionError):
            meta = json.loads(path.read_text())
        if not isinstance(meta, dict) or meta.get("format_version") != FORMAT_VERSION:
            remedy = f"Write them into a new folder with this version's {cls.command}"
            raise UserError(f"these are not {cls.contents} of format {FORMAT_VERSION}", where=folder, remedy=remedy)
        return meta

    @classmethod
    def _damaged(cls, what: str, where: object) -> UserError:
        remedy = f"Copy the folder again, or run {cls.command} again into a new one"
        return UserError(f"{cls.contents} are damaged: {what}", where=where, remedy=remedy)


@dataclass(frozen=True)
class PseudoLabelSource:
    """What made the ids."""

    num_clusters: int
    teacher: str  # as a person would name it: mfcc, facebook/hubert-base-ls960
    codebook_hash: str
    teacher_layer: int | None = None  # 1-based, None where the teacher has no layers
    frame_rate: int = FRAME_RATE  # frames a second

    def __post_init__(self) -> None:
        # ids are stored in two bytes
        require_range("num_clusters", self.num_clusters, 1, MAX_CLUSTERS)


class PseudoLabels(FrameStore[PseudoLabelSource]):
    """The k-means ids of a corpus: `labels[utterance_id]` is (frames,) uint16."""

    source_type = PseudoLabelSource
    dtype = "U16"
    contents, command, made_from = "pseudo-labels", "`ser kmeans`", "teacher or codebook"

    @override
    def check(self, utterances: Sequence[Utterance]) -> None:
        super().check(utterances)
        samples = {utterance.utterance_id: samples_of(utterance) for utterance in utterances}
        # in the order of the files, which are then opened once
        for utterance_id in (id_ for id_ in self if id_ in samples):
            ids, frames = self[utterance_id], num_frames(samples[utterance_id])
            if ids.max(initial=0) >= self.source.num_clusters:
                what = f"{ids.max()}, of {utterance_id}, is not a cluster id below {self.source.num_clusters}"
                raise self._damaged(what, self.folder)
            if len(ids) != frames:
                what = f"{len(ids)} pseudo-labels for the {frames} frames of {utterance_id}"
                raise UserError(what, where=self.folder, remedy=self._made_again())

    @override
    def _to_store(self, utterance_id: str, array: NDArray[Any]) -> NDArray[Any]:
        return array.astype("<u2")


class FeatureCache(FrameStore[FeatureSource]):
    """Frames of a corpus, of `ser cache` or any other tool: `cache[utterance_id]` is (frames, dim) float16."""

    source_type = FeatureSource
    dtype = "F16"
    contents, command, made_from = "cached features", "`ser cache`", "encoder, layer, stride, length or audio"

    def __init__(self, folder: str | Path, source: FeatureSource) -> None:
        require_range("dim", source.dim, 1)
        require_range("frame_seconds", source.frame_seconds, 0, above=True)
        self.frame_shape = (source.dim,)
        super().__init__(folder, source)

    @override
    def _to_store(self, utterance_id: str, array: NDArray[Any]) -> NDArray[Any]:
        if array.ndim != 2 or len(array) == 0 or array.shape[1:] != self.frame_shape:
            msg = f"{utterance_id}: {array.shape} is not (frames, {self.source.dim})"
            raise ValueError(msg)
        with np.errstate(over="ignore"):
            halves = array.astype("<f2")
        if not np.isfinite(halves).all():
            what = "a value is NaN, infinite or above 65504, the largest of half precision"
            raise UserError(what, where=f"features of {utterance_id}", remedy="Scale them down, or take another layer")
        return halves


def audio_key(utterance: Utterance) -> str:
    """Hash an utterance's file by `sampled_hash`, and what part of it a segment is; 32 hex digits."""
    part = [] if utterance.start is None else [f"{utterance.start} {samples_of(utterance)}"]
    return content_hash(sampled_hash(utterance.path), *part)
