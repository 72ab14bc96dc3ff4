"""Files that are there whole or not at all, and are known by their content."""

from __future__ import annotations

import os
from contextlib import contextmanager
from errno import EISDIR
from hashlib import blake2b
from pathlib import Path
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

BYTES_AT_ONCE = 2**20


@contextmanager
def whole_file(path: str | Path, *, mode: int = 0o666) -> Iterator[IO[bytes]]:
    """Open a file to write; a reader, also after a crash, finds all of it or what was there before, never a part.

    Args:
        path: of the file.
        mode: its permissions from the first byte on, less those that the umask takes.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(EISDIR, os.strerror(EISDIR), str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with (
            named_in_errors(path),
            open(temporary, "wb", opener=lambda name, flags: os.open(name, flags, mode)) as file,
        ):
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_whole(path: str | Path, content: bytes, *, mode: int = 0o666) -> None:
    """Write a file in the way of `whole_file`."""
    with whole_file(path, mode=mode) as file:
        file.write(content)


def sync_folder(folder: Path) -> None:
    """Have the files of a folder written to the disk itself, before the folder gets its name."""
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())


def content_hash(path: Path) -> str:
    """Hash a file's bytes, 32 hex digits."""
    digest = blake2b(digest_size=16)
    with path.open("rb") as file:
        while block := file.read(BYTES_AT_ONCE):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def named_in_errors(path: str | Path) -> Iterator[None]:
    """Have an error of the file system say which file it is about, which that of a full disk doesn't."""
    try:
        yield
    except OSError as error:
        if error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
