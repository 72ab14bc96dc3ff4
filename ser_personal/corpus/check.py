"""`ser check`: what is in a corpus, everything wrong with it, and the part of it that is usable."""

from __future__ import annotations

import json as json_format
from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from functools import partial
from math import isnan
from multiprocessing.pool import ThreadPool
from pathlib import Path
from stat import S_ISREG
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
import soundfile
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from ser_personal.audio import (
    DECODING_ERRORS,
    LOUDEST,
    SAMPLE_RATE,
    WINDOW,
    is_truncated,
    library_name,
    resampled_length,
)
from ser_personal.corpus.base import HEADER_THREADS, Corpus, duplicates, labels_outside
from ser_personal.corpus.csv_corpus import open_corpus, write_corpus
from ser_personal.corpus.splits import by_split, first_few, known_speakers, shared_speakers
from ser_personal.corpus.table import write_rows
from ser_personal.errors import UserError
from ser_personal.files import atomic_write, content_hash
from ser_personal.types import ATTRIBUTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from ser_personal.types import Utterance

FORMAT = "ser_personal.corpus_check"
FORMAT_VERSION = 1
QUANTILES = {"shortest": 0.0, "5 %": 0.05, "median": 0.5, "95 %": 0.95, "longest": 1.0}
# what the datamodules crop to, and what a batch of `ser kmeans` holds, unless set otherwise
CROPPED_ABOVE = 250_000
KMEANS_SECONDS = 120
SILENCE = 1e-4  # peak to peak, full scale being 1: three steps of 16 bits, less than dither
BLOCK_VALUES = 4_000_000
FILES_AT_ONCE = 32

Item = TypeVar("Item")
Result = TypeVar("Result")


class Kind(NamedTuple):
    """A sort of problem; training fails for a fatal one."""

    title: str
    fatal: bool


EMPTY_SET = Kind("set without utterances", fatal=True)
DUPLICATE_ID = Kind("utterance id listed more than once", fatal=True)
LABEL_OUTSIDE = Kind("label outside the scale", fatal=True)
LABEL_MISSING = Kind("label missing", fatal=False)
NO_LABEL = Kind("set without any label: pre-training goes without, fine-tuning doesn't", fatal=False)
NO_SPEAKER = Kind(
    "set without a known speaker: PAPT learns no speaker from it, and training leaves it out unless "
    "data.known_speakers_only is false",
    fatal=False,
)
SHARED_SPEAKER = Kind("speaker in train and in another set", fatal=True)
ALLOWED_SPEAKER = Kind("speaker in train and in another set, as allowed", fatal=False)
VALIDATION_SPEAKER = Kind("speaker in validation and in a test set: the checkpoint is chosen on it", fatal=False)
MISSING = Kind("audio file missing", fatal=True)
UNREADABLE = Kind("audio file unreadable", fatal=True)
TRUNCATED = Kind("audio file truncated", fatal=True)
EMPTY = Kind("audio file empty", fatal=True)
NO_SOUND = Kind("audio of NaN, infinity or numbers beyond any sound", fatal=True)
TOO_SHORT = Kind(f"audio shorter than {WINDOW} samples", fatal=True)
CROPPED = Kind(f"audio longer than {CROPPED_ABOVE / SAMPLE_RATE:g} s: training crops it", fatal=False)
TOO_LONG = Kind(
    f"audio longer than {KMEANS_SECONDS} s: `ser kmeans` needs --data.batch_seconds of its length", fatal=False
)
SILENT = Kind("audio silent from beginning to end", fatal=False)
OTHER_FORMAT = Kind("audio not 16 kHz mono, converted on the fly", fatal=False)
SAME_AUDIO = Kind("the same file under several ids", fatal=False)
LEAKED_AUDIO = Kind("the same file in train and in another set: scores on it mean nothing", fatal=False)


class Problem(NamedTuple):
    """One thing that is wrong.

    Attributes:
        where: the utterance, file, speaker or set.
        detail: what was found there, empty where the kind says it all.
        utterance_id: the utterance that can't be used for it, where it is about one.
    """

    kind: Kind
    where: str
    detail: str = ""
    utterance_id: str | None = None

    def __str__(self) -> str:
        return f"{self.where} ({self.detail})" if self.detail else self.where


class AudioFile(NamedTuple):
    """What was found out about one file.

    Attributes:
        seconds: duration, NaN where the header can't be read.
        sample_rate: Hz, 0 where the header can't be read.
        bytes: size of the file, 0 where there is none.
        problems: kind and detail of what prevents its use, or else of what is worth knowing.
    """

    seconds: float = float("nan")
    sample_rate: int = 0
    bytes: int = 0
    problems: tuple[tuple[Kind, str], ...] = ()


@dataclass(frozen=True)
class Finding:
    """What `ser check` found.

    Attributes:
        corpus: its label file.
        decoded: whether the samples were read as well.
        utterances: all that are listed, with durations.
        sets: name -> what is in it, as `_contents` has it.
        problems: everything wrong, in the order it was found.
    """

    corpus: str
    decoded: bool
    utterances: tuple[Utterance, ...]
    sets: dict[str, dict[str, Any]]
    problems: tuple[Problem, ...]

    @property
    def training_would_fail(self) -> bool:
        """Whether a problem is fatal."""
        return any(problem.kind.fatal for problem in self.problems)


def check(
    corpus: Corpus | str,
    write: str | None = None,
    json: str | None = None,
    *,
    decode: bool = True,
    replace: bool = False,
) -> int:
    """Read a corpus, list what is in it and everything wrong with it, and write what is usable as a table.

    Args:
        corpus: a folder in MSP-Podcast's layout, a corpus.csv, or a corpus class with its arguments.
        write: table to write, such as clean.csv: a corpus of the utterances that training can use. clean.left_out.csv
            lists the others and why. Speakers in two sets are kept in both.
        json: file to write everything found to, every problem with its place.
        decode: read every sample; false stops at the headers, and finds neither silence nor damage inside a file.
        replace: replace files that exist already.

    Returns:
        1 where training would fail, on the written table where there is one; else 0.

    Raises:
        UserError: the label file can't be read, no utterance is usable, or a file to write exists already.
    """
    left_out = None if write is None else Path(write).with_suffix(".left_out.csv")
    for path in (write, left_out, json):
        if path is not None and Path(path).exists() and not replace:
            raise UserError("exists already", where=path, remedy="Give another name, or replace it with --replace")
    console = Console()
    opened = open_corpus(corpus)
    finding = examine(opened, console, decode=decode)
    _show(finding, console)
    if json is not None:
        _write_json(Path(json), finding)
    if write is None or left_out is None:
        return int(finding.training_would_fail)
    usable = _write_usable(Path(write), left_out, finding)
    low, high = opened.scale
    kept = f"{len(usable):,} of {len(finding.utterances):,} utterances, labels from {low:g} to {high:g}"
    console.print(f"Wrote {write} ({kept}) and {left_out}.", soft_wrap=True, markup=False)
    remaining = [problem for problem in _set_problems(usable, opened.allow_overlap) if problem.kind.fatal]
    for line in _lines(remaining):
        console.print(line, soft_wrap=True)
    return int(bool(remaining))


def examine(corpus: Corpus, console: Console, *, decode: bool) -> Finding:
    """Find out everything about a corpus; progress goes to the console."""
    listed = corpus.listed()
    paths = [utterance.path for utterance in listed]
    files = _in_parallel(partial(read_audio, decode=decode), paths, "reading audio", console)
    measured = [replace(utterance, seconds=file.seconds) for utterance, file in zip(listed, files, strict=True)]
    utterances = corpus.cut(measured)
    with_files = list(zip(utterances, files, strict=True))
    problems = [
        *_set_problems(utterances, corpus.allow_overlap),
        *(Problem(DUPLICATE_ID, utterance_id, "", utterance_id) for utterance_id in duplicates(utterances)),
        *_label_problems(utterances, corpus.scale),
        *(
            Problem(kind, str(each.path), detail, each.utterance_id)
            for each, file in with_files
            for kind, detail in file.problems
        ),
        *_same_files(utterances, files, console),
    ]
    rate_of = {utterance.path: file.sample_rate for utterance, file in with_files}
    sets = {name: _contents(members, rate_of) for name, members in by_split(utterances).items()}
    return Finding(str(corpus.label_file), decode, tuple(utterances), sets, tuple(problems))


def read_audio(path: Path, *, decode: bool) -> AudioFile:
    """Read a file's header and, if wanted, all its samples, which shows silence and damage inside the file."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return AudioFile(problems=((MISSING, ""),))
    if not S_ISREG(status.st_mode):
        return AudioFile(problems=((UNREADABLE, "isn't a file"),))
    size = status.st_size
    if size == 0:
        return AudioFile(problems=((EMPTY, ""),))
    try:
        if is_truncated(path):
            return AudioFile(bytes=size, problems=((TRUNCATED, ""),))
        with soundfile.SoundFile(library_name(path)) as file:
            num_samples = resampled_length(file.frames, file.samplerate)
            problems = tuple(_audio_problems(file, num_samples, decode=decode))
            return AudioFile(num_samples / SAMPLE_RATE, file.samplerate, size, problems)
    except DECODING_ERRORS as error:
        # libsndfile's own message, without the path, which the problem names anyway
        reason = str(getattr(error, "error_string", error)).rstrip(".")
        return AudioFile(bytes=size, problems=((UNREADABLE, reason),))


def _audio_problems(file: soundfile.SoundFile, num_samples: int, *, decode: bool) -> Iterator[tuple[Kind, str]]:
    read, lowest, highest = _read_samples(file) if decode else (file.frames, -1.0, 1.0)
    if num_samples == 0:
        yield EMPTY, ""
    elif read < file.frames:
        yield TRUNCATED, f"ends {file.frames - read} samples early"
    # NaN compares as neither
    elif not (lowest >= -LOUDEST and highest <= LOUDEST):
        yield NO_SOUND, ""
    elif num_samples < WINDOW:
        yield TOO_SHORT, f"{num_samples} samples"
    else:
        if highest - lowest <= SILENCE:
            yield SILENT, ""
        if num_samples > CROPPED_ABOVE:
            long = TOO_LONG if num_samples > KMEANS_SECONDS * SAMPLE_RATE else CROPPED
            yield long, f"{num_samples / SAMPLE_RATE:.1f} s"
        if (file.samplerate, file.channels) != (SAMPLE_RATE, 1):
            yield OTHER_FORMAT, f"{file.samplerate} Hz, {file.channels} channels"


def _read_samples(file: soundfile.SoundFile) -> tuple[int, float, float]:
    """Count the samples a channel and find their range; 16-bit ones are read as they are, in a fifth of the time."""
    as_integers = file.subtype == "PCM_16"
    size = min(file.frames, max(1, BLOCK_VALUES // file.channels))
    count, lowest, highest = 0, np.inf, -np.inf
    while len(block := file.read(size, dtype="int16" if as_integers else "float32")):
        count += len(block)
        # unlike Python's min, it keeps a NaN
        lowest, highest = np.minimum(lowest, block.min()), np.maximum(highest, block.max())
    full_scale = 2**15 if as_integers else 1
    return count, float(lowest) / full_scale, float(highest) / full_scale


def _set_problems(utterances: Sequence[Utterance], allow_overlap: Sequence[str]) -> Iterator[Problem]:
    sets = by_split(utterances)
    for name in ("train", "validation"):
        if name not in sets:
            yield Problem(EMPTY_SET, name)
            continue
        if not known_speakers(sets[name]):
            yield Problem(NO_SPEAKER, name)
        if all(isnan(label) for utterance in sets[name] for label in utterance.labels.values()):
            yield Problem(NO_LABEL, name)
    for name, speakers in shared_speakers(sets).items():
        kind = ALLOWED_SPEAKER if name in allow_overlap else SHARED_SPEAKER
        yield from (Problem(kind, speaker, name) for speaker in speakers)
    validation = known_speakers(sets.get("validation", ()))
    for name in set(sets) - {"train", "validation"}:
        for speaker in sorted(validation & known_speakers(sets[name])):
            yield Problem(VALIDATION_SPEAKER, speaker, name)


def _label_problems(utterances: Sequence[Utterance], scale: tuple[float, float]) -> Iterator[Problem]:
    used = {name for utterance in utterances for name, label in utterance.labels.items() if not isnan(label)}
    for utterance in utterances:
        for name, label in labels_outside(utterance, scale).items():
            yield Problem(LABEL_OUTSIDE, utterance.utterance_id, f"{name} {label:g}", utterance.utterance_id)
    for utterance in utterances:
        missing = [name for name, label in utterance.labels.items() if name in used and isnan(label)]
        if missing:
            yield Problem(LABEL_MISSING, utterance.utterance_id, ", ".join(missing))


def _same_files(utterances: Sequence[Utterance], files: Sequence[AudioFile], console: Console) -> Iterator[Problem]:
    """Find utterances whose files hold the same bytes; only files of equal size are read for it."""
    sizes = Counter(file.bytes for file in files)
    candidates = [each for each, file in zip(utterances, files, strict=True) if file.bytes and sizes[file.bytes] > 1]
    paths = sorted({utterance.path for utterance in candidates})
    hashes = dict(zip(paths, _in_parallel(_hash, paths, "comparing files of equal size", console), strict=True))
    groups = defaultdict(list)
    for utterance in candidates:
        groups[hashes[utterance.path]].append(utterance)
    for group in (group for content, group in groups.items() if content and len(group) > 1):
        splits = {utterance.split for utterance in group}
        kind = LEAKED_AUDIO if "train" in splits and len(splits) > 1 else SAME_AUDIO
        names = [f"{utterance.utterance_id} in {utterance.split}" for utterance in group]
        yield Problem(kind, str(group[0].path), first_few(names))


def _hash(path: Path) -> str:
    try:
        return content_hash(path)
    except OSError:  # a problem of its own
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


def _contents(utterances: Sequence[Utterance], rate_of: Mapping[Path, int]) -> dict[str, Any]:
    # audio whose header can't be read counts in neither hours nor quantiles
    seconds = _present(utterance.seconds for utterance in utterances)
    quantiles = np.quantile(seconds, list(QUANTILES.values())).tolist() if seconds.size else []
    rates = Counter(rate_of[utterance.path] for utterance in utterances)
    labels = {name: _present(each.labels.get(name, np.nan) for each in utterances) for name in ATTRIBUTES}
    return {
        "utterances": len(utterances),
        "hours": float(seconds.sum()) / 3600,
        "speakers": len(known_speakers(utterances)),
        "of_unknown_speakers": sum(utterance.speaker_id is None for utterance in utterances),
        "sample_rates": {rate: rates[rate] for rate in sorted(rates) if rate},
        "seconds": dict(zip(QUANTILES, quantiles, strict=False)),
        "labels": {
            name: {"utterances": x.size, "mean": float(x.mean()), "lowest": float(x.min()), "highest": float(x.max())}
            for name, x in labels.items()
            if x.size
        },
    }


def _present(values: Iterable[float]) -> NDArray[np.float64]:
    array = np.array(list(values), dtype=np.float64)
    return array[~np.isnan(array)]


def _write_usable(path: Path, left_out: Path, finding: Finding) -> list[Utterance]:
    reasons = defaultdict(list)
    for kind, _, detail, utterance_id in finding.problems:
        if kind.fatal and utterance_id is not None:
            reasons[utterance_id].append(f"{kind.title} ({detail})" if detail else kind.title)
    usable = [utterance for utterance in finding.utterances if utterance.utterance_id not in reasons]
    if not usable:
        raise UserError("no utterance is usable", where=finding.corpus, remedy="Correct what is listed above")
    write_corpus(usable, path)
    others = [each for each in finding.utterances if each.utterance_id in reasons]
    rows = [(each.utterance_id, each.path, "; ".join(reasons[each.utterance_id])) for each in others]
    write_rows(left_out, ("utterance", "path", "reason"), rows)
    return usable


def _show(finding: Finding, console: Console) -> None:
    contents = _table("Contents", ("utterances", "hours", "speakers", "of unknown speakers", "Hz"))
    durations = _table("Seconds an utterance", QUANTILES)
    labels = _table("Labels: mean (lowest to highest)", ATTRIBUTES)
    for name, of in finding.sets.items():
        counts = (f"{of['utterances']:,}", f"{of['hours']:,.2f}", f"{of['speakers']:,}")
        files = of["sample_rates"]
        rates = ", ".join(f"{rate:,}" if len(files) == 1 else f"{rate:,} ({files[rate]:,} files)" for rate in files)
        contents.add_row(escape(name), *counts, f"{of['of_unknown_speakers']:,}", rates)
        durations.add_row(escape(name), *(f"{value:.2f}" for value in of["seconds"].values()))
        means = {each: f"{x['mean']:.2f} ({x['lowest']:.2f} to {x['highest']:.2f})" for each, x in of["labels"].items()}
        labels.add_row(escape(name), *(means.get(attribute, "none") for attribute in ATTRIBUTES))
    console.print(contents, durations, labels, sep="\n")
    for line in _lines(finding.problems):
        console.print(line, soft_wrap=True)
    if not finding.problems:
        console.print("[green]No problem found.[/green]")
    read = "labels, splits, the header of every file, the bytes of files of equal size"
    unread = "" if finding.decoded else " Not read: samples, so neither silence nor damage inside a file was seen."
    samples = ", every sample" if finding.decoded else ""
    console.print(f"Read: {read}{samples}.{unread}", soft_wrap=True, style="dim", highlight=False)


def _by_kind(problems: Iterable[Problem]) -> dict[Kind, list[Problem]]:
    groups = defaultdict(list)
    for problem in sorted(problems, key=lambda problem: not problem.kind.fatal):
        groups[problem.kind].append(problem)
    return dict(groups)


def _lines(problems: Iterable[Problem]) -> Iterator[str]:
    for kind, group in _by_kind(problems).items():
        label = "[red]error[/red]" if kind.fatal else "[yellow]note[/yellow]"
        yield f"{label}: {kind.title}: {len(group):,}: {escape(first_few([str(problem) for problem in group]))}"


def _table(title: str, columns: Iterable[str]) -> Table:
    table = Table("split", title=title, title_justify="left")
    for name in columns:
        table.add_column(name, justify="right")
    return table


def _write_json(path: Path, finding: Finding) -> None:
    content = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "corpus": finding.corpus,
        "looked_at": {"headers": True, "equal_sizes": True, "samples": finding.decoded},
        "training_would_fail": finding.training_would_fail,
        "sets": finding.sets,
        "problems": [
            {
                "kind": kind.title,
                "fatal": kind.fatal,
                "count": len(group),
                "places": [{"where": problem.where, "detail": problem.detail} for problem in group],
            }
            for kind, group in _by_kind(finding.problems).items()
        ],
    }
    atomic_write(path, f"{json_format.dumps(content, indent=2, allow_nan=False)}\n".encode())
