"""Pseudo-labels while several processes make them: a shard for each, joined when every utterance is written.

A shard is a folder like the finished one, in `shards/` inside it. Whatever was killed, and however many processes there
are next time, what counts as written is the whole utterances of all shards. The joined files hold the utterances in the
order that the caller gives, so they are the same bytes whoever wrote what.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from ser_personal.data.growing_folder import GrowingFolder
from ser_personal.data.pseudo_labels import PSEUDO_LABELS, PseudoLabels, PseudoLabelSource, PseudoLabelWriter
from ser_personal.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterable


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
        self.remove()

    def remove(self) -> None:
        """Remove the shards, whose ids the finished folder holds."""
        shutil.rmtree(self._shards, ignore_errors=True)

    @property
    def _shards(self) -> Path:
        return self.folder / "shards"

    def _parts(self) -> list[PseudoLabels]:
        return [PseudoLabels.load_part(folder, self.source) for folder in (self.folder, *self._shards.glob("*"))]
