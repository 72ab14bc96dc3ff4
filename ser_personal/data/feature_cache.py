"""Frames on disk: what an encoder makes of every utterance, two bytes a value, read as often as training likes.

A growing folder of three files:

- `frames.float16`: the frames of all utterances one after another, each of `dim` values, little-endian, memory-mapped;
- `utterances.jsonl`: one `["utterance_id", frames]` a line, in the order of `frames.float16`; behind them, where the
  writer was told of the audio file, the key of that file;
- `meta.json`: `format_version` (1), `finished`, and `source`, the fields of `FeatureSource`.

Frames are flushed before the line that counts them: a writer may be killed at any time and goes on after the last whole
utterance. Nothing reads a folder before its writer has declared it finished.

The key of an audio file is a hash of its size and of 4 KiB from its middle. Its time of change would refuse a corpus
that was copied; its whole content takes minutes to read again for a large one. Any other recording, gain or filter
changes the middle.
"""

from __future__ import annotations

from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from ser_personal.data.growing_folder import FolderKind, GrowingFolder, places
from ser_personal.data.growing_writer import GrowingWriter
from ser_personal.errors import UserError
from ser_personal.ranges import require_range
from ser_personal.types import FeatureSource

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

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
