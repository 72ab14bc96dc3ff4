"""Pseudo-labels on disk: the k-means id of every frame of every utterance, two bytes each.

A growing folder whose rows are the ids, in `ids.uint16`; `utterances.jsonl` holds `["utterance_id", frames]`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np

from ser_personal.audio import FRAME_RATE
from ser_personal.data.growing_folder import FolderKind, GrowingFolder, places
from ser_personal.data.growing_writer import GrowingWriter
from ser_personal.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

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
