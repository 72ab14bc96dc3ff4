"""`ser check`: what is in a corpus, everything wrong with it, and the part of it that is usable."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import replace
from functools import partial
from math import isnan
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Table

from ser_personal.audio import SAMPLE_RATE, TOO_SHORT, WINDOW, decode_utterance, fault_of, read_header
from ser_personal.corpus.base import HEADER_THREADS, Corpus, duplicates, labels_outside, seconds_of
from ser_personal.corpus.csv_corpus import open_corpus, write_corpus
from ser_personal.corpus.splits import by_split, first_few, known_speakers, shared_speakers, split_meant
from ser_personal.corpus.table import check_ending, write_rows
from ser_personal.errors import UserError
from ser_personal.files import refuse_existing
from ser_personal.types import ATTRIBUTES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from ser_personal.types import Utterance

QUANTILES = {"shortest": 0.0, "5 %": 0.05, "median": 0.5, "95 %": 0.95, "longest": 1.0}
# what the datamodules crop to, and what a batch of `ser kmeans` holds, unless set otherwise
CROPPED_ABOVE = 250_000
KMEANS_SECONDS = 120
FILES_AT_ONCE = 32
# projections of a waveform on fixed noise: recordings differ in them by about 1, encodings of one by thousandths
PROJECTIONS = np.random.default_rng(0).choice([-1.0, 1.0], (4096, 8))
SAME_SOUND = 0.03
# of fewer labels, the extremes may be missing by chance
MIN_LABELS_OF_SCALE = 20
OVERLAP = 0.1  # seconds that neighbouring segments may have in common


class Kind(NamedTuple):
    """A sort of problem; training fails for a fatal one."""

    title: str
    fatal: bool = False


EMPTY_SET = Kind("split without utterances", fatal=True)
OTHER_SPLIT = Kind("split called neither train, validation nor test1, test2, ..., so it is a test set of its own")
DUPLICATE_ID = Kind("utterance id listed more than once", fatal=True)
LABEL_OUTSIDE = Kind("label outside the scale", fatal=True)
NARROW_SCALE = Kind(
    "scale wider than the labels: intervals end with the scale, so give the narrower one if it is the corpus's"
)
LABEL_MISSING = Kind("label missing")
NO_LABEL = Kind("split without any label: enough for pre-training, not for fine-tuning")
ONE_LABEL = Kind("attribute with the same label in all of the validation set: the best epoch can't be chosen by it")
NO_SPEAKER = Kind(
    "split without a known speaker: PAPT learns no speaker from it, and training leaves it out unless "
    "data.known_speakers_only is false"
)
SHARED_SPEAKER = Kind("speaker in train and in another split", fatal=True)
VALIDATION_SPEAKER = Kind("speaker in validation and in a test set: the checkpoint is chosen on it")
SPELLINGS = Kind("speakers whose names differ only by case: give one person one name")
CROPPED = Kind(f"audio longer than {CROPPED_ABOVE / SAMPLE_RATE:g} s: training crops it")
TOO_LONG = Kind(f"audio longer than {KMEANS_SECONDS} s: `ser kmeans` needs --data.batch_seconds of its length")
OTHER_FORMAT = Kind("audio not 16 kHz mono, converted on the fly")
SAME_AUDIO = Kind("the same sound under several ids")
LEAKED_AUDIO = Kind("the same sound in train and in another split: scores on it mean nothing")


class Problem(NamedTuple):
    """One thing that is wrong."""

    kind: Kind
    where: str  # the utterance, file, speaker or split
    detail: str = ""
    left_out: str | None = None  # id of the utterance that can't be used for it

    def __str__(self) -> str:
        return f"{self.where} ({self.detail})" if self.detail else self.where


class Sound(NamedTuple):
    """An utterance's audio; seconds are NaN and the rate (Hz) is 0 where its header can't be read."""

    seconds: float
    sample_rate: int
    problems: tuple[tuple[Kind, str], ...] = ()  # kind and detail
    # alike for two encodings of one recording; None where it can't be used or wasn't decoded
    projections: NDArray[np.float64] | None = None


class Finding(NamedTuple):
    """What `ser check` found."""

    utterances: list[Utterance]
    rates: dict[Path, int]  # Hz of the files whose header can be read
    problems: list[Problem]


def check(corpus: Corpus | str, write: str | None = None, *, decode: bool = True, replace: bool = False) -> int:
    """Read a corpus, list what is in it and everything wrong with it, and write what is usable as a table.

    Args:
        corpus: a folder in MSP-Podcast's layout, a corpus.csv, or a corpus class with its arguments.
        write: table to write, such as clean.csv (or .tsv, .csv.gz, .parquet): a corpus of the utterances that training
            can use. clean.problems.csv lists everything found, and with it what was left out and why. Speakers in two
            splits stay in both.
        decode: read every sample; false stops at the headers, and finds neither silence, damage inside a file nor
            copies.
        replace: replace files that exist already.

    Returns:
        1 where training would fail, on the written table where there is one; else 0.
    """
    listing = None
    if write is not None:
        check_ending(Path(write))
        listing = Path(write.removesuffix(".gz")).with_suffix(".problems.csv")
    refuse_existing(write, listing, replace=replace)
    console = Console()
    opened = open_corpus(corpus)
    finding = examine(opened, console, decode=decode)
    _show(finding, console)
    unread = ". Not read: samples, so neither silence, damage inside a file nor copies of a sound were seen."
    read = f"Read: labels, splits, the header of every file{', every sample.' if decode else unread}"
    console.print(read, soft_wrap=True, style="dim", highlight=False)
    fitting = opened.fitting_scale(finding.utterances)
    if fitting is not None and any(problem.kind is LABEL_OUTSIDE for problem in finding.problems):
        flags = opened.flags("scale", f"[{fitting[0]},{fitting[1]}]", of_a_stage=False)
        line = f"Where the labels' scale is {fitting[0]} to {fitting[1]}: `ser check {flags}`"
        console.print(line, soft_wrap=True, markup=False, highlight=False)
    if write is None or listing is None:
        return int(any(problem.kind.fatal for problem in finding.problems))
    left_out = {problem.left_out for problem in finding.problems}
    usable = [utterance for utterance in finding.utterances if utterance.utterance_id not in left_out]
    if not usable:
        raise UserError("no utterance is usable", where=opened.label_file, remedy="Correct what is listed above")
    write_corpus(usable, Path(write))
    rows = [(each.kind.title, each.where, each.detail, each.left_out) for each in finding.problems]
    write_rows(listing, ("problem", "where", "detail", "left_out"), rows)
    low, high = opened.scale
    written = f"{len(usable):,} of {len(finding.utterances):,} utterances, labels from {low:g} to {high:g}"
    console.print(f"Wrote {write} ({written}) and {listing}.", soft_wrap=True, markup=False)
    remaining = [problem for problem in _set_problems(usable, opened.allow_overlap) if problem.kind.fatal]
    for line in _lines(remaining):
        console.print(line, soft_wrap=True)
    return int(bool(remaining))


def examine(corpus: Corpus, console: Console, *, decode: bool) -> Finding:
    """Find out everything about a corpus; progress goes to the console."""
    listed = corpus.listed()
    with ThreadPool(HEADER_THREADS) as threads:
        done = threads.imap(partial(examine_sound, decode=decode), listed, chunksize=FILES_AT_ONCE)
        hidden = not console.is_terminal
        sounds = list(track(done, "reading audio", len(listed), console=console, transient=True, disable=hidden))
    utterances = corpus.cut([replace(each, seconds=sound.seconds) for each, sound in zip(listed, sounds, strict=True)])
    problems = [
        *_set_problems(utterances, corpus.allow_overlap),
        *(Problem(DUPLICATE_ID, name, left_out=name) for name in duplicates(utterances)),
        *_label_problems(utterances, corpus),
        *(
            Problem(kind, str(each.path), detail, each.utterance_id if kind.fatal else None)
            for each, sound in zip(utterances, sounds, strict=True)
            for kind, detail in sound.problems
        ),
        *_same_sounds(utterances, sounds),
        *_overlapping(utterances),
    ]
    rates = {each.path: sound.sample_rate for each, sound in zip(utterances, sounds, strict=True) if sound.sample_rate}
    return Finding(utterances, rates, problems)


def examine_sound(utterance: Utterance, *, decode: bool) -> Sound:
    """Read an utterance's header and, with `decode`, its samples, judged as training judges them."""
    seconds, rate = float("nan"), 0
    try:
        header = read_header(utterance.path)
        rate = header.sample_rate
        seconds = seconds_of(utterance, header.num_samples)
        num_samples = round(seconds * SAMPLE_RATE)
        waveform = decode_utterance(replace(utterance, seconds=seconds)) if decode else None
        fault = fault_of(waveform) if waveform is not None else TOO_SHORT if num_samples < WINDOW else None
    except UserError as error:
        fault = error.what
    if fault is not None:
        return Sound(seconds, rate, ((Kind(fault, fatal=True), ""),))
    problems = []
    if num_samples > CROPPED_ABOVE:
        long = TOO_LONG if num_samples > KMEANS_SECONDS * SAMPLE_RATE else CROPPED
        problems.append((long, f"{seconds:.1f} s"))
    if (rate, header.channels) != (SAMPLE_RATE, 1):
        problems.append((OTHER_FORMAT, f"{rate} Hz, {header.channels} channels"))
    return Sound(seconds, rate, tuple(problems), None if waveform is None else _project(waveform))


def _project(waveform: NDArray[np.float32]) -> NDArray[np.float64]:
    folded = np.pad(waveform, (0, -len(waveform) % len(PROJECTIONS))).reshape(-1, len(PROJECTIONS)).sum(0)
    projections: NDArray[np.float64] = folded @ PROJECTIONS / np.linalg.norm(waveform)
    return projections


def _set_problems(utterances: Sequence[Utterance], allow_overlap: Sequence[str]) -> Iterator[Problem]:
    sets = by_split(utterances)
    for name in ("train", "validation"):
        if name not in sets:
            yield Problem(EMPTY_SET, name)
            continue
        if not known_speakers(sets[name]):
            yield Problem(NO_SPEAKER, name)
        labels: dict[str, set[float]] = {}
        for attribute, label in (item for utterance in sets[name] for item in utterance.labels.items()):
            if not isnan(label):
                labels.setdefault(attribute, set()).add(label)
        if not labels:
            yield Problem(NO_LABEL, name)
        if name == "validation":
            yield from (Problem(ONE_LABEL, attribute) for attribute, found in labels.items() if len(found) == 1)
    others = {name for name in sets if not name.startswith("test")} - {"train", "validation"}
    meant = {name: split_meant(name) for name in sorted(others)}
    yield from (Problem(OTHER_SPLIT, name, guess and f"did you mean {guess}?") for name, guess in meant.items())
    for name, speakers in shared_speakers(sets).items():
        if name not in allow_overlap:
            yield from (Problem(SHARED_SPEAKER, speaker, name) for speaker in speakers)
    spellings = defaultdict(list)
    for speaker in sorted(known_speakers(utterances)):
        spellings[speaker.casefold()].append(speaker)
    yield from (Problem(SPELLINGS, ", ".join(names)) for names in spellings.values() if len(names) > 1)
    validation = known_speakers(sets.get("validation", ()))
    for name in sets:
        if name not in {"train", "validation"}:
            shared = sorted(validation & known_speakers(sets[name]))
            yield from (Problem(VALIDATION_SPEAKER, speaker, name) for speaker in shared)


def _label_problems(utterances: Sequence[Utterance], corpus: Corpus) -> Iterator[Problem]:
    labels = [name for each in utterances for name, label in each.labels.items() if not isnan(label)]
    used, (low, high) = set(labels), corpus.scale
    for utterance in utterances:
        for name, label in labels_outside(utterance, corpus.scale).items():
            yield Problem(LABEL_OUTSIDE, utterance.utterance_id, f"{name} {label:g}", utterance.utterance_id)
    scale = corpus.fitting_scale(utterances)
    enough = len(labels) >= MIN_LABELS_OF_SCALE
    if enough and scale not in {None, corpus.scale} and low <= scale[0] and scale[1] <= high:
        flags = corpus.flags("scale", f"[{scale[0]},{scale[1]}]")
        yield Problem(NARROW_SCALE, f"{low:g} to {high:g}", f"the labels are in {scale[0]} to {scale[1]}: `{flags}`")
    for utterance in utterances:
        missing = [name for name, label in utterance.labels.items() if name in used and isnan(label)]
        if missing:
            yield Problem(LABEL_MISSING, utterance.utterance_id, ", ".join(missing))


def _same_sounds(utterances: Sequence[Utterance], sounds: Sequence[Sound]) -> Iterator[Problem]:
    """Find utterances of one sound, whatever container, tags or depth they have."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components
    from scipy.spatial import KDTree

    decoded = [each for each, sound in zip(utterances, sounds, strict=True) if sound.projections is not None]
    if not decoded:
        return
    rows = np.round([sound.projections for sound in sounds if sound.projections is not None], 6)
    points, group_of = np.unique(rows, axis=0, return_inverse=True)
    pairs = KDTree(points).query_pairs(SAME_SOUND, output_type="ndarray")
    near = coo_array((np.ones(len(pairs)), pairs.T), shape=(len(points), len(points)))
    groups = defaultdict(list)
    for utterance, group in zip(decoded, connected_components(near)[1][group_of.ravel()].tolist(), strict=True):
        groups[group].append(utterance)
    for group in groups.values():
        if len(group) > 1:
            splits = {utterance.split for utterance in group}
            kind = LEAKED_AUDIO if "train" in splits and len(splits) > 1 else SAME_AUDIO
            names = [f"{utterance.utterance_id} in {utterance.split}" for utterance in group]
            yield Problem(kind, str(group[0].path), first_few(names))


def _overlapping(utterances: Sequence[Utterance]) -> Iterator[Problem]:
    """Find parts of a recording that are in train and in another split, where at least one has a segment of it."""
    of_path = defaultdict(list)
    for utterance in utterances:
        of_path[utterance.path].append((utterance.start or 0.0, utterance))
    for path, segments in of_path.items():
        last: dict[bool, tuple[float, Utterance]] = {}
        for start, each in sorted(segments, key=lambda segment: (segment[0], segment[1].start is not None)):
            trains = each.split == "train"
            end, other = last.get(not trains, (0.0, each))
            both_whole = each.start is None and other.start is None
            if end - start > OVERLAP and not both_whole:
                names = [f"{utterance.utterance_id} in {utterance.split}" for utterance in (other, each)]
                yield Problem(LEAKED_AUDIO, str(path), ", ".join(names))
            last[trains] = max(last.get(trains, (0.0, each)), (start + each.seconds, each), key=lambda ended: ended[0])


def _present(values: Iterable[float]) -> NDArray[np.float64]:
    array = np.array(list(values), dtype=np.float64)
    return array[~np.isnan(array)]


def _show(finding: Finding, console: Console) -> None:
    contents = _table("Contents", ("utterances", "hours", "speakers", "of unknown speakers", "Hz"))
    durations = _table("Seconds an utterance", QUANTILES)
    labels = _table("Labels: mean (lowest to highest)", ATTRIBUTES)
    for name, utterances in by_split(finding.utterances).items():
        # audio whose header can't be read counts in neither hours nor quantiles
        seconds = _present(utterance.seconds for utterance in utterances)
        rates = Counter(finding.rates[each.path] for each in utterances if each.path in finding.rates)
        contents.add_row(
            escape(name),
            f"{len(utterances):,}",
            f"{seconds.sum() / 3600:,.2f}",
            f"{len(known_speakers(utterances)):,}",
            f"{sum(utterance.speaker_id is None for utterance in utterances):,}",
            ", ".join(f"{hz:,}" if len(rates) == 1 else f"{hz:,} ({rates[hz]:,} files)" for hz in sorted(rates)),
        )
        quantiles = np.quantile(seconds, list(QUANTILES.values())) if seconds.size else ()
        durations.add_row(escape(name), *(f"{value:.2f}" for value in quantiles))
        found = [_present(each.labels.get(attribute, np.nan) for each in utterances) for attribute in ATTRIBUTES]
        ranges = (f"{x.mean():.2f} ({x.min():.2f} to {x.max():.2f})" if x.size else "none" for x in found)
        labels.add_row(escape(name), *ranges)
    console.print(contents, durations, labels, sep="\n")
    for line in _lines(finding.problems):
        console.print(line, soft_wrap=True)
    if not finding.problems:
        console.print("[green]No problem found.[/green]")


def _lines(problems: Iterable[Problem]) -> Iterator[str]:
    groups = defaultdict(list)
    for problem in sorted(problems, key=lambda problem: not problem.kind.fatal):
        groups[problem.kind].append(str(problem))
    for kind, group in groups.items():
        label = "[red]error[/red]" if kind.fatal else "[yellow]note[/yellow]"
        yield f"{label}: {kind.title} ({len(group):,}): {escape(first_few(group))}"


def _table(title: str, columns: Iterable[str]) -> Table:
    table = Table("split", title=title, title_justify="left")
    for name in columns:
        table.add_column(name, justify="right")
    return table
