"""Lengths of audio files, cached on disk: 265,000 headers take minutes, on every rank of every command."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import TYPE_CHECKING

from ser_personal.audio import num_samples_of
from ser_personal.errors import UserError
from ser_personal.files import atomic_write, content_hash

if TYPE_CHECKING:
    from collections.abc import Iterable

# More than cores: on network storage the threads wait for the disk, not for a core.
HEADER_THREADS = 16
# so few headers are read in a second, and aren't cached
FEW = 1_000
# another number for lengths that are found another way
VERSION = 1


def lengths_of(paths: Iterable[Path], label_file: Path) -> dict[Path, int]:
    """Count the samples at 16 kHz of audio files, by their headers; unreadable ones are left out.

    They are cached by path, size and time of change in the user's cache folder ($XDG_CACHE_HOME or ~/.cache), a
    file a corpus, where there are many.
    """
    unique = list(dict.fromkeys(paths))
    cache = _cache_file(label_file) if len(unique) > FEW else None
    cached = {} if cache is None else _read(cache)

    def read(path: Path) -> list[int] | None:
        try:
            status = path.stat()
            found = cached.get(str(path))
            if found is not None and found[:2] == [status.st_size, status.st_mtime_ns]:
                return found
            return [status.st_size, status.st_mtime_ns, num_samples_of(path)]
        except (OSError, ValueError, UserError):
            return None

    with ThreadPool(HEADER_THREADS) as threads:
        read_now = dict(zip(unique, threads.map(read, unique), strict=True))
    found = {path: entry for path, entry in read_now.items() if entry is not None}
    # a command on other splits needs what this one doesn't
    now = cached | {str(path): entry for path, entry in found.items()}
    if cache is not None and now != cached:
        # a disk that is full or read-only only costs time
        with suppress(OSError):
            atomic_write(cache, json.dumps(now).encode())
    return {path: entry[2] for path, entry in found.items()}


def _cache_file(label_file: Path) -> Path | None:
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:
        return None
    return folder / "ser_personal" / f"headers-{VERSION}-{content_hash(os.fsencode(label_file.absolute()).hex())}.json"


def _read(cache: Path) -> dict[str, list[int]]:
    try:
        content = json.loads(cache.read_text())
        return {path: [int(size), int(time), int(length)] for path, (size, time, length) in content.items()}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return {}
