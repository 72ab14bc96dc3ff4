"""Any corpus, as one table of its recordings."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from ser_personal.corpus.base import Corpus
from ser_personal.corpus.paths import audio_path
from ser_personal.corpus.splits import canonical_split
from ser_personal.corpus.table import attribute_labels, known, read_csv_rows
from ser_personal.types import ATTRIBUTES, Utterance

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ser_personal.corpus.table import Row

COLUMNS = ("path", "speaker", "split", *ATTRIBUTES, "gender", "emotion", "id")


class CSVCorpus(Corpus):
    """A table with one row a recording.

    Its columns, in any order, their names in any case: path (relative to the table), speaker (blank or Unknown where
    unknown) and split; and any of arousal, valence, dominance (blank where missing), gender, emotion and id (the path
    without its suffix where missing). Other columns are ignored.

    Args:
        path: the table, UTF-8 and separated by commas.
        scale: lowest and highest value of a label.
        splits: names of the wanted splits, in any spelling; all if None.
        allow_overlap: names of sets that may share speakers with train.
        cut_test: a set to cut by speaker into `<name>_adaptation` and `<name>_evaluation`; none if None.
        adaptation_seconds: audio that each speaker of that set gives to adaptation, at most.
        allow_outside: read audio outside the table's folder, too.
    """

    def __init__(
        self,
        path: str,
        scale: tuple[float, float] = (1, 7),
        splits: Sequence[str] | None = None,
        allow_overlap: Sequence[str] = (),
        cut_test: str | None = None,
        adaptation_seconds: float = 200.0,
        *,
        allow_outside: bool = False,
    ) -> None:
        super().__init__(
            scale=scale,
            splits=splits,
            allow_overlap=allow_overlap,
            cut_test=cut_test,
            adaptation_seconds=adaptation_seconds,
        )
        self._path, self._allow_outside = Path(path), allow_outside

    @property
    def label_file(self) -> Path:
        """The table."""
        return self._path

    def read_labels(self) -> list[Utterance]:
        """Read every row of the table.

        Raises:
            UserError: the table can't be read, lacks a column, or a row lacks its path or split or leaves the folder.
        """
        rows = read_csv_rows(self._path, required=COLUMNS[:3], filled=("path", "split"), any_case=COLUMNS)
        return [self._utterance(row) for row in rows]

    def _utterance(self, row: Row) -> Utterance:
        relative = PurePosixPath(row["path"])
        utterance_id = row.get("id") or str(relative.parent / relative.stem)
        where = f"{self._path}, {utterance_id}"
        return Utterance(
            utterance_id=utterance_id,
            path=audio_path(self._path.parent, row["path"], where, allow_outside=self._allow_outside),
            split=canonical_split(row["split"]),
            speaker_id=known(row["speaker"]),
            gender=known(row.get("gender", "")),
            labels=attribute_labels(row, {name: name for name in ATTRIBUTES}, where),
            emotion=known(row.get("emotion", "")),
        )
