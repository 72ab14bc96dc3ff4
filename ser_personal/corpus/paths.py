"""Where a table of a corpus says that its audio lies."""

from __future__ import annotations

from pathlib import Path, PurePosixPath, PureWindowsPath

from ser_personal.errors import UserError


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
        UserError: it lies outside.
    """
    path = folder / cell
    if "\\" in cell and not path.is_file():
        path = folder / cell.replace("\\", "/")
    leaves = PurePosixPath(cell).is_absolute() or PureWindowsPath(cell).anchor or ".." in PureWindowsPath(cell).parts
    if leaves and not allow_outside:
        remedy = f"Move the audio into {folder}, or allow it: --data.corpus CSVCorpus --data.corpus.allow_outside true"
        raise UserError(f"{cell} lies outside the corpus", where=where, remedy=remedy)
    return path
