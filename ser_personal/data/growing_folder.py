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
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar, get_type_hints

import numpy as np

from ser_personal.errors import UserError
from ser_personal.files import write_whole

if TYPE_CHECKING:
    from collections.abc import Sequence

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
        write_whole(self.folder / META, json.dumps(meta, indent=2).encode())

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
