"""Where a table of a corpus says that its audio lies."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath, PureWindowsPath

from ser_personal.errors import UserError

# bytes, on all common file systems
LONGEST_NAME = 255


def audio_path(folder: Path, cell: str, where: object, *, allow_outside: bool = False) -> Path:
    """Find a recording, which has to lie in the corpus's folder or in one below.

    Whoever writes a table could otherwise have any file of the reader's machine decoded and its content passed on.
    Links inside the folder are followed, wherever they lead: only who unpacked it could have put them there.

    Args:
        folder: that paths are relative to.
        cell: the path as the table has it, with slashes or, on Windows, backslashes.
        where: what an error calls the row.
        allow_outside: take absolute paths and those through `..`, too.

    Raises:
        UserError: it lies outside, or no file can be called so.
    """
    parts = PureWindowsPath(cell).parts
    if not all(map(_is_a_name, parts)):
        raise UserError(f"{cell[:80]!r} can't be a file's name", where=where, remedy="Mend the row, or remove it")
    path = folder / cell
    if "\\" in cell and not path.is_file():
        path = folder / cell.replace("\\", "/")
    leaves = PurePosixPath(cell).is_absolute() or PureWindowsPath(cell).anchor or ".." in parts
    if leaves and not allow_outside:
        remedy = f"Move the audio into {folder}, or allow it: --data.corpus CSVCorpus --data.corpus.allow_outside true"
        raise UserError(f"{cell} lies outside the corpus", where=where, remedy=remedy)
    return path


def _is_a_name(part: str) -> bool:
    try:
        return "\0" not in part and len(os.fsencode(part)) <= LONGEST_NAME
    except UnicodeEncodeError:
        return False
