"""Writes a growing folder, utterance after utterance."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Generic, Self

from ser_personal.data.growing_folder import Entry, GrowingFolder, Source
from ser_personal.files import named_in_errors

if TYPE_CHECKING:
    from types import TracebackType

    import numpy as np
    from numpy.typing import NDArray


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
