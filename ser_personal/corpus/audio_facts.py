"""What the audio files of a corpus are like, each looked at once, and which of them are the same."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from multiprocessing.pool import ThreadPool
from stat import S_ISREG
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np
import soundfile
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ser_personal.audio import LOUDEST, SAMPLE_RATE, UNREADABLE, WINDOW, is_truncated, library_name, resampled_length
from ser_personal.corpus import problem_kinds as kinds
from ser_personal.corpus.base import HEADER_THREADS
from ser_personal.corpus.problem_kinds import Problem
from ser_personal.files import content_hash

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from rich.console import Console

    from ser_personal.types import Utterance

# peak to peak, full scale being 1: three steps of 16 bits, less than dither
SILENCE = 1e-4
BLOCK_VALUES = 4_000_000
FILES_AT_ONCE = 32

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class AudioFacts:
    """What was found out about one file.

    Attributes:
        seconds: duration, NaN where the header can't be read.
        sample_rate: Hz, 0 where the header can't be read.
        bytes: size of the file, 0 where there is none.
        problems: what keeps it from being used, or else what there is to know of it.
    """

    seconds: float = float("nan")
    sample_rate: int = 0
    bytes: int = 0
    problems: tuple[Problem, ...] = ()


class _Samples(NamedTuple):
    """What was read of a file: samples a channel, and the range they lie in."""

    num_samples: int
    lowest: float
    highest: float


def look_at(path: Path, *, decode: bool) -> AudioFacts:
    """Read a file's header and, if wanted, all its samples.

    Args:
        path: any format that libsndfile reads.
        decode: read the samples as well, which shows damage inside the file and silence.
    """
    try:
        status = path.stat()
    except (OSError, ValueError):
        return AudioFacts(problems=(Problem(kinds.MISSING, str(path)),))
    size = status.st_size
    if not S_ISREG(status.st_mode):
        return AudioFacts(problems=(Problem(kinds.UNREADABLE, str(path), "isn't a file"),))
    if size == 0:
        return AudioFacts(problems=(Problem(kinds.EMPTY, str(path)),))
    try:
        if is_truncated(path):
            return AudioFacts(bytes=size, problems=(Problem(kinds.TRUNCATED, str(path)),))
        with soundfile.SoundFile(library_name(path)) as file:
            seconds = resampled_length(file.frames, file.samplerate) / SAMPLE_RATE
            problems = _problems_of(file, path, round(seconds * SAMPLE_RATE), decode=decode)
            return AudioFacts(seconds, file.samplerate, size, tuple(problems))
    except UNREADABLE as error:
        # libsndfile's own words, without the path that stands before them anyway
        reason = str(getattr(error, "error_string", error)).rstrip(".")
        return AudioFacts(bytes=size, problems=(Problem(kinds.UNREADABLE, str(path), reason),))


def _problems_of(file: soundfile.SoundFile, path: Path, num_samples: int, *, decode: bool) -> Iterator[Problem]:
    """Find what is wrong with a file that can be opened: what keeps it from being used, else what there is to know."""
    samples = _read(file) if decode else None
    if num_samples == 0:
        yield Problem(kinds.EMPTY, str(path))
    elif samples is not None and samples.num_samples < file.frames:
        yield Problem(kinds.TRUNCATED, str(path), f"ends {file.frames - samples.num_samples} samples early")
    # NaN compares as neither
    elif samples is not None and not (samples.lowest >= -LOUDEST and samples.highest <= LOUDEST):
        yield Problem(kinds.NO_SOUND, str(path))
    elif num_samples < WINDOW:
        yield Problem(kinds.TOO_SHORT, str(path), f"{num_samples} samples")
    else:
        if samples is not None and samples.highest - samples.lowest <= SILENCE:
            yield Problem(kinds.SILENT, str(path))
        if num_samples > kinds.CROPPED_ABOVE:
            long = kinds.TOO_LONG if num_samples > kinds.KMEANS_SECONDS * SAMPLE_RATE else kinds.CROPPED
            yield Problem(long, str(path), f"{num_samples / SAMPLE_RATE:.1f} s")
        if (file.samplerate, file.channels) != (SAMPLE_RATE, 1):
            yield Problem(kinds.OTHER_FORMAT, str(path), f"{file.samplerate} Hz, {file.channels} channels")


def _read(file: soundfile.SoundFile) -> _Samples:
    """Read all samples, 16-bit ones as they are: that takes a fifth of the time."""
    as_integers = file.subtype == "PCM_16"
    size = min(file.frames, max(1, BLOCK_VALUES // file.channels))
    count, lowest, highest = 0, np.inf, -np.inf
    while len(block := file.read(size, dtype="int16" if as_integers else "float32")):
        count += len(block)
        # unlike Python's min, it keeps a NaN
        lowest, highest = np.minimum(lowest, block.min()), np.maximum(highest, block.max())
    full_scale = 2**15 if as_integers else 1
    return _Samples(count, float(lowest) / full_scale, float(highest) / full_scale)


def look_at_all(paths: Sequence[Path], console: Console, *, decode: bool) -> list[AudioFacts]:
    """Look at many files, in their order, under a progress bar where the console is a terminal."""
    return _in_parallel(lambda path: look_at(path, decode=decode), paths, "reading audio", console)


def same_files(utterances: Sequence[Utterance], facts: Sequence[AudioFacts], console: Console) -> list[list[Utterance]]:
    """Find utterances whose files hold the same bytes; only files of equal size are read for it."""
    of_size = defaultdict(list)
    for utterance, fact in zip(utterances, facts, strict=True):
        if fact.bytes:
            of_size[fact.bytes].append(utterance)
    candidates = [utterance for group in of_size.values() if len(group) > 1 for utterance in group]
    paths = sorted({utterance.path for utterance in candidates})
    hashes = dict(zip(paths, _in_parallel(_hash, paths, "comparing files of equal size", console), strict=True))
    groups = defaultdict(list)
    for utterance in candidates:
        if found := hashes[utterance.path]:
            groups[found].append(utterance)
    return [group for group in groups.values() if len(group) > 1]


def _hash(path: Path) -> str:
    """Hash a file's bytes; nothing where it can't be read, which is another problem's to say."""
    try:
        return content_hash(path)
    except OSError:
        return ""


def _in_parallel(
    function: Callable[[Item], Result], items: Sequence[Item], title: str, console: Console
) -> list[Result]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with (
        ThreadPool(HEADER_THREADS) as threads,
        Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress,
    ):
        done = threads.imap(function, items, chunksize=FILES_AT_ONCE)
        return list(progress.track(done, total=len(items), description=title))
