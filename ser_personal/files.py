"""Files that are written completely or not at all, hashed by their content, and gathered from several processes."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from contextlib import contextmanager
from errno import EISDIR
from functools import cache
from hashlib import blake2b
from math import isnan
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar, cast
from unicodedata import normalize

from ser_personal.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from lightning.pytorch import Trainer
    from numpy.typing import NDArray

BYTES_AT_ONCE = 2**20
# of a large file, 1 MiB in all
HASHED_BLOCKS, BLOCK = 256, 4096
# in a pointer, or in the target of a link -> the command that brings the content
POINTERS = {b"version https://git-lfs": "git lfs pull", b"/annex/objects/": "git annex get ."}


@contextmanager
def atomic_file(path: str | Path, *, mode: int = 0o666) -> Iterator[IO[bytes]]:
    """Open a file to write; a reader, also after a crash, finds all of it or what was there before, never a part."""
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(EISDIR, os.strerror(EISDIR), str(path))
    # a pipe or a device is written to, and a link keeps its name
    if path.exists() and not path.is_file():
        with path.open("wb") as file:
            yield file
        return
    path = Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        if error.filename is not None:
            raise
        # that of a full disk names no file
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


def atomic_write(path: str | Path, content: bytes, *, mode: int = 0o666) -> None:
    """Write a file as `atomic_file` does."""
    with atomic_file(path, mode=mode) as file:
        file.write(content)


def write_json(path: str | Path, content: Mapping[str, Any]) -> None:
    """Write JSON atomically, NaN as null."""
    atomic_write(path, f"{json.dumps(_without_nan(content), indent=2, allow_nan=False)}\n".encode())


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(inner) for inner in value]
    return None if isinstance(value, float) and isnan(value) else value


def as_on_disk(path: str) -> str:
    """A path in the form of Unicode that the disk has it in, if it has it; a Mac writes accents apart."""
    return next(filter(os.path.exists, (path, normalize("NFC", path), normalize("NFD", path))), path)


def refuse_pointer(path: Path) -> None:
    """Refuse what Git LFS or git-annex left in the place of a file, or of one in a folder."""
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        start = b""
        if file.is_file():
            with file.open("rb") as opened:
                start = opened.read(32)
        elif file.is_symlink():
            start = os.fsencode(file.readlink())
        for sign, command in POINTERS.items():
            if sign in start:
                what = f"is only a pointer, whose content `{command}` brings"
                raise UserError(what, where=file, remedy="Run that in its folder")


def refuse_existing(*paths: str | Path | None, replace: bool) -> None:
    """Refuse to replace files, unless asked to; None is no file."""
    for path in paths:
        if path is not None and Path(path).exists() and not replace:
            raise UserError("exists already", where=path, remedy="Give another name, or replace it with --replace")


def sync_folder(folder: Path) -> None:
    """Have the files of a folder written to the disk itself, before the folder gets its name."""
    for path in filter(Path.is_file, folder.rglob("*")):
        with path.open("rb") as file:
            os.fsync(file.fileno())


def content_hash(*parts: Path | str | NDArray[Any]) -> str:
    """Hash the bytes of files, texts (a line each) and arrays (with shape and type), in order; 32 hex digits."""
    digest = blake2b(digest_size=16)
    for part in parts:
        if isinstance(part, Path):
            with part.open("rb") as file:
                while block := file.read(BYTES_AT_ONCE):
                    digest.update(block)
        elif isinstance(part, str):
            digest.update(f"{part}\n".encode())
        else:
            digest.update(f"{part.dtype.str} {part.shape}\n".encode())
            digest.update(part.tobytes())
    return digest.hexdigest()


def file_key(path: Path) -> str:
    """Tell a file from others, and from what it was before, by path, size and time of change, without reading it."""
    status = path.stat()
    return f"{path.absolute()} {status.st_size} {status.st_mtime_ns}"


def sampled_hash(path: Path) -> str:
    """Hash a file's content, at 256 places where it is larger than 1 MiB; 32 hex digits."""
    stat = path.stat()
    return _sampled_hash(path, stat.st_size, stat.st_mtime_ns)


# segments of a recording share it
@cache
def _sampled_hash(path: Path, size: int, _changed: int) -> str:
    if size <= HASHED_BLOCKS * BLOCK:
        return content_hash(path)
    digest = blake2b(f"{size}\n".encode(), digest_size=16)
    with path.open("rb") as file:
        for number in range(HASHED_BLOCKS):
            file.seek((size - BLOCK) * number // (HASHED_BLOCKS - 1))
            digest.update(file.read(BLOCK))
    return digest.hexdigest()


Result = TypeVar("Result")


def gather_files(
    trainer: Trainer, root: str | Path, write: Callable[[Path], None], read: Callable[[Sequence[Path]], Result]
) -> Result | None:
    """Have each process write a file in `root`, which all must see, and the first read them all, in order of rank.

    Call it on every process; it returns what `read` made of the files on the first one, None on the others.
    """
    new = ""
    if trainer.is_global_zero:
        Path(root).mkdir(parents=True, exist_ok=True)
        new = tempfile.mkdtemp(prefix=".gather-", dir=root)
    folder = Path(trainer.strategy.broadcast(new))
    write(folder / str(trainer.global_rank))
    trainer.strategy.barrier("files written")
    result = None
    if trainer.is_global_zero:
        try:
            result = read([folder / str(rank) for rank in range(trainer.world_size)])
        finally:
            shutil.rmtree(folder)
    trainer.strategy.barrier("files read")
    return result


def on_first_process(trainer: Trainer, work: Callable[[], Result]) -> Result:
    """Do some work on the first process and give all its result; call it on every process. A UserError ends all."""
    outcome: Result | UserError | None = None
    if trainer.is_global_zero:
        try:
            outcome = work()
        except UserError as mistake:
            outcome = mistake
    outcome = trainer.strategy.broadcast(outcome)
    if isinstance(outcome, UserError):
        raise outcome if trainer.is_global_zero else SystemExit(2)
    return cast("Result", outcome)


def check_empty(folder: Path) -> None:
    """Refuse a folder with something in it."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError("isn't an empty folder", where=folder, remedy="Give --out another one, or delete it")


def is_hub_name(name: str | Path) -> bool:
    """Whether it may be owner/name on the Hugging Face hub."""
    path = Path(name)
    return len(path.parts) == 2 and not path.is_absolute() and ".." not in path.parts
