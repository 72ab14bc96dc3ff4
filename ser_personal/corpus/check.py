"""`ser check`: what is in a corpus, and everything wrong with it."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from dataclasses import asdict, dataclass, replace
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
from ser_personal.corpus.base import (
    HEADER_THREADS,
    Corpus,  # jsonargparse resolves it at run time
    duplicates,
    labels_outside,
)
from ser_personal.corpus.csv_corpus import open_corpus
from ser_personal.corpus.splits import by_split, first_few, known_speakers, shared_speakers
from ser_personal.files import atomic_write, content_hash
from ser_personal.types import ATTRIBUTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from ser_personal.types import Utterance

QUANTILES = {"shortest": 0.0, "5 %": 0.05, "median": 0.5, "95 %": 0.95, "longest": 1.0}


@dataclass(frozen=True)
class LabelSummary:
    """The labels of one attribute.

    Attributes:
        utterances: how many have one.
        mean: of them, label points.
        lowest: of them.
        highest: of them.
    """

    utterances: int
    mean: float
    lowest: float
    highest: float


@dataclass(frozen=True)
class SetContents:
    """One set of a corpus.

    Attributes:
        utterances: how many.
        hours: of audio whose header can be read.
        speakers: known ones.
        of_unknown_speakers: utterances.
        sample_rates: Hz -> files of it.
        seconds: name of a quantile -> seconds of an utterance; empty where no header can be read.
        labels: attribute -> its labels; an attribute without any is left out.
    """

    utterances: int
    hours: float
    speakers: int
    of_unknown_speakers: int
    sample_rates: dict[int, int]
    seconds: dict[str, float]
    labels: dict[str, LabelSummary]


def contents_of(utterances: Sequence[Utterance], facts: Sequence[AudioFacts]) -> dict[str, SetContents]:
    """Sum up the sets of a corpus, by name: train, validation, then the others.

    Args:
        utterances: of any sets, with durations.
        facts: of their files, in the same order.
    """
    rates = {utterance.path: fact.sample_rate for utterance, fact in zip(utterances, facts, strict=True)}
    return {
        name: _contents_of_set(members, Counter(rates[utterance.path] for utterance in members))
        for name, members in by_split(utterances).items()
    }


def _contents_of_set(utterances: Sequence[Utterance], rates: Counter[int]) -> SetContents:
    seconds = _present([utterance.seconds for utterance in utterances])
    quantiles = np.quantile(seconds, list(QUANTILES.values())).tolist() if seconds.size else []
    labels = {
        attribute: _present([utterance.labels.get(attribute, np.nan) for utterance in utterances])
        for attribute in ATTRIBUTES
    }
    return SetContents(
        utterances=len(utterances),
        hours=float(seconds.sum()) / 3600,
        speakers=len(known_speakers(utterances)),
        of_unknown_speakers=sum(utterance.speaker_id is None for utterance in utterances),
        sample_rates={rate: rates[rate] for rate in sorted(rates) if rate},
        seconds=dict(zip(QUANTILES, quantiles, strict=False)),
        labels={
            name: LabelSummary(x.size, float(x.mean()), float(x.min()), float(x.max()))
            for name, x in labels.items()
            if x.size
        },
    )


def _present(values: Sequence[float]) -> NDArray[np.float64]:
    array = np.array(values, dtype=np.float64)
    return array[~np.isnan(array)]


# what the datamodules crop to, and what a batch of `ser kmeans` holds, unless told otherwise
CROPPED_ABOVE = 250_000
KMEANS_SECONDS = 120


@dataclass(frozen=True)
class Kind:
    """A sort of problem.

    Attributes:
        title: what it is called.
        fatal: whether training would fail for it.
    """

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
CROPPED = Kind(
    f"audio longer than {CROPPED_ABOVE / SAMPLE_RATE:g} s: training takes a part of it at a time", fatal=False
)
TOO_LONG = Kind(
    f"audio longer than {KMEANS_SECONDS} s: `ser kmeans` needs --data.batch_seconds of its length", fatal=False
)
SILENT = Kind("audio silent from beginning to end", fatal=False)
OTHER_FORMAT = Kind("audio not 16 kHz mono, converted on the fly", fatal=False)
SAME_AUDIO = Kind("the same file under several ids", fatal=False)
LEAKED_AUDIO = Kind("the same file in train and in another set: scores on it mean nothing", fatal=False)


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        kind: what sort of problem.
        where: the utterance, file, speaker or set.
        detail: what was found there, empty where the kind says it all.
    """

    kind: Kind
    where: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.where} ({self.detail})" if self.detail else self.where


def by_kind(problems: Sequence[Problem]) -> dict[Kind, list[Problem]]:
    """Gather problems by kind, fatal kinds first."""
    groups = defaultdict(list)
    for problem in sorted(problems, key=lambda problem: not problem.kind.fatal):
        groups[problem.kind].append(problem)
    return dict(groups)


def find_problems(
    utterances: Sequence[Utterance],
    facts: Sequence[AudioFacts],
    same_files: Sequence[Sequence[Utterance]],
    scale: tuple[float, float],
    allow_overlap: Sequence[str] = (),
) -> list[Problem]:
    """Find everything wrong with a corpus's labels, splits and audio.

    Args:
        utterances: measured, ordered by id, not yet validated.
        facts: of their files, in the same order.
        same_files: utterances whose files hold the same bytes, group by group.
        scale: lowest and highest value of a label.
        allow_overlap: sets that may share speakers with train.

    Returns:
        Problems of sets, ids, labels, then audio, each in the order of the utterances.
    """
    return [
        *_set_problems(utterances, allow_overlap),
        *(Problem(DUPLICATE_ID, utterance_id) for utterance_id in duplicates(utterances)),
        *_label_problems(utterances, scale),
        *(problem for fact in facts for problem in fact.problems),
        *_same_file_problems(same_files),
    ]


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
        for speaker in speakers:
            yield Problem(kind, speaker, name)
    validation = known_speakers(sets.get("validation", ()))
    for name in set(sets) - {"train", "validation"}:
        for speaker in sorted(validation & known_speakers(sets[name])):
            yield Problem(VALIDATION_SPEAKER, speaker, name)


def _label_problems(utterances: Sequence[Utterance], scale: tuple[float, float]) -> Iterator[Problem]:
    used = {name for utterance in utterances for name, label in utterance.labels.items() if not isnan(label)}
    for utterance in utterances:
        for name, label in labels_outside(utterance, scale).items():
            yield Problem(LABEL_OUTSIDE, utterance.utterance_id, f"{name} {label:g}")
    for utterance in utterances:
        missing = [name for name, label in utterance.labels.items() if name in used and isnan(label)]
        if missing:
            yield Problem(LABEL_MISSING, utterance.utterance_id, ", ".join(missing))


def _same_file_problems(groups: Sequence[Sequence[Utterance]]) -> Iterator[Problem]:
    for first, *others in groups:
        splits = {utterance.split for utterance in (first, *others)}
        kind = LEAKED_AUDIO if "train" in splits and len(splits) > 1 else SAME_AUDIO
        names = [f"{utterance.utterance_id} in {utterance.split}" for utterance in (first, *others)]
        yield Problem(kind, str(first.path), first_few(names))


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
        return AudioFacts(problems=(Problem(MISSING, str(path)),))
    size = status.st_size
    if not S_ISREG(status.st_mode):
        return AudioFacts(problems=(Problem(UNREADABLE, str(path), "isn't a file"),))
    if size == 0:
        return AudioFacts(problems=(Problem(EMPTY, str(path)),))
    try:
        if is_truncated(path):
            return AudioFacts(bytes=size, problems=(Problem(TRUNCATED, str(path)),))
        with soundfile.SoundFile(library_name(path)) as file:
            seconds = resampled_length(file.frames, file.samplerate) / SAMPLE_RATE
            problems = _problems_of(file, path, round(seconds * SAMPLE_RATE), decode=decode)
            return AudioFacts(seconds, file.samplerate, size, tuple(problems))
    except DECODING_ERRORS as error:
        # libsndfile's own words, without the path that stands before them anyway
        reason = str(getattr(error, "error_string", error)).rstrip(".")
        return AudioFacts(bytes=size, problems=(Problem(UNREADABLE, str(path), reason),))


def _problems_of(file: soundfile.SoundFile, path: Path, num_samples: int, *, decode: bool) -> Iterator[Problem]:
    """Find what is wrong with a file that can be opened: what keeps it from being used, else what there is to know."""
    samples = _read(file) if decode else None
    if num_samples == 0:
        yield Problem(EMPTY, str(path))
    elif samples is not None and samples.num_samples < file.frames:
        yield Problem(TRUNCATED, str(path), f"ends {file.frames - samples.num_samples} samples early")
    # NaN compares as neither
    elif samples is not None and not (samples.lowest >= -LOUDEST and samples.highest <= LOUDEST):
        yield Problem(NO_SOUND, str(path))
    elif num_samples < WINDOW:
        yield Problem(TOO_SHORT, str(path), f"{num_samples} samples")
    else:
        if samples is not None and samples.highest - samples.lowest <= SILENCE:
            yield Problem(SILENT, str(path))
        if num_samples > CROPPED_ABOVE:
            long = TOO_LONG if num_samples > KMEANS_SECONDS * SAMPLE_RATE else CROPPED
            yield Problem(long, str(path), f"{num_samples / SAMPLE_RATE:.1f} s")
        if (file.samplerate, file.channels) != (SAMPLE_RATE, 1):
            yield Problem(OTHER_FORMAT, str(path), f"{file.samplerate} Hz, {file.channels} channels")


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


FORMAT = "ser_personal.corpus_check"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class Finding:
    """What `ser check` found.

    Attributes:
        corpus: its label file.
        decoded: whether the samples were read as well.
        sets: name -> what is in it.
        problems: everything wrong, in the order it was found.
    """

    corpus: str
    decoded: bool
    sets: dict[str, SetContents]
    problems: tuple[Problem, ...]

    @property
    def training_would_fail(self) -> bool:
        """Whether a problem is fatal."""
        return any(problem.kind.fatal for problem in self.problems)


def check(corpus: Corpus | str, json: str | None = None, *, decode: bool = True) -> int:
    """Read a corpus, list what is in it and everything wrong with it.

    Args:
        corpus: a folder in MSP-Podcast's layout, a corpus.csv, or a corpus class with its arguments.
        json: file to write all of it to, every problem with its place.
        decode: read every sample; false stops at the headers, and finds neither silence nor damage inside a file.

    Returns:
        1 where training would fail, else 0.

    Raises:
        UserError: the label file can't be read.
    """
    console = Console()
    finding = examine(open_corpus(corpus), console, decode=decode)
    console.print(contents_table(finding.sets), durations_table(finding.sets), labels_table(finding.sets), sep="\n")
    for line in problem_lines(finding.problems):
        console.print(line, soft_wrap=True)
    console.print(looked_at(finding), soft_wrap=True, style="dim", highlight=False)
    if json is not None:
        write_finding(Path(json), finding)
    return int(finding.training_would_fail)


def examine(corpus: Corpus, console: Console, *, decode: bool) -> Finding:
    """Look at everything in a corpus; progress goes to the console.

    Raises:
        UserError: the label file can't be read.
    """
    listed = corpus.listed()
    facts = look_at_all([utterance.path for utterance in listed], console, decode=decode)
    measured = [replace(utterance, seconds=fact.seconds) for utterance, fact in zip(listed, facts, strict=True)]
    utterances = corpus.cut(measured)
    same = same_files(utterances, facts, console)
    problems = find_problems(utterances, facts, same, corpus.scale, corpus.allow_overlap)
    return Finding(str(corpus.label_file), decode, contents_of(utterances, facts), tuple(problems))


def contents_table(sets: Mapping[str, SetContents]) -> Table:
    """Tabulate the size and speakers of each set."""
    table = _table("Contents", ("utterances", "hours", "speakers", "of unknown speakers", "Hz"))
    for name, of_set in sets.items():
        table.add_row(
            escape(name),
            f"{of_set.utterances:,}",
            f"{of_set.hours:,.2f}",
            f"{of_set.speakers:,}",
            f"{of_set.of_unknown_speakers:,}",
            _rates(of_set.sample_rates),
        )
    return table


def durations_table(sets: Mapping[str, SetContents]) -> Table:
    """Tabulate quantiles of the durations of each set."""
    table = _table("Seconds an utterance", QUANTILES)
    for name, of_set in sets.items():
        table.add_row(escape(name), *(f"{value:.2f}" for value in of_set.seconds.values()))
    return table


def labels_table(sets: Mapping[str, SetContents]) -> Table:
    """Tabulate the mean and range of the labels of each set."""
    table = _table("Labels: mean (lowest to highest)", ATTRIBUTES)
    for name, of_set in sets.items():
        labels = [of_set.labels.get(attribute) for attribute in ATTRIBUTES]
        cells = [f"{x.mean:.2f} ({x.lowest:.2f} to {x.highest:.2f})" if x else "none" for x in labels]
        table.add_row(escape(name), *cells)
    return table


def problem_lines(problems: Sequence[Problem]) -> list[str]:
    """Write one line a kind of problem, with its number and first places, as rich markup."""
    if not problems:
        return ["[green]No problem found.[/green]"]
    lines = []
    for kind, group in by_kind(problems).items():
        label = "[red]error[/red]" if kind.fatal else "[yellow]note[/yellow]"
        places = escape(first_few([str(problem) for problem in group]))
        lines.append(f"{label}: {kind.title}: {len(group):,}: {places}")
    return lines


def looked_at(finding: Finding) -> str:
    """Say what was looked at, and what wasn't."""
    always = "labels, splits, the header of every file, the bytes of files of equal size"
    if finding.decoded:
        return f"Looked at: {always}, and every sample."
    return f"Looked at: {always}. Not looked at: samples, so silence and damage inside a file weren't seen."


def write_finding(path: Path, finding: Finding) -> None:
    """Write all that was found as JSON, the whole file or nothing."""
    content: dict[str, Any] = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "corpus": finding.corpus,
        "looked_at": {"headers": True, "equal_sizes": True, "samples": finding.decoded},
        "training_would_fail": finding.training_would_fail,
        "sets": {name: asdict(of_set) for name, of_set in finding.sets.items()},
        "problems": [
            {
                "kind": kind.title,
                "fatal": kind.fatal,
                "count": len(group),
                "places": [{"where": problem.where, "detail": problem.detail} for problem in group],
            }
            for kind, group in by_kind(finding.problems).items()
        ],
    }
    atomic_write(path, f"{json.dumps(content, indent=2, allow_nan=False)}\n".encode())


def _rates(files: Mapping[int, int]) -> str:
    if len(files) == 1:
        return f"{next(iter(files)):,}"
    return ", ".join(f"{rate:,} ({count:,} files)" for rate, count in files.items())


def _table(title: str, columns: Iterable[str]) -> Table:
    table = Table("split", title=title, title_justify="left")
    for name in columns:
        table.add_column(name, justify="right")
    return table
