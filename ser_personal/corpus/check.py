"""`ser check`: what is in a corpus, everything wrong with it, and the part of it that is usable."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from math import isnan, nan
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from rich.console import Console
from rich.markup import escape
from rich.progress import track

from ser_personal.audio import SAMPLE_RATE, TOO_SHORT, WINDOW, decode_utterance, fault_of, read_header
from ser_personal.corpus.base import HEADER_THREADS, Corpus, duplicates, labels_outside, seconds_of
from ser_personal.corpus.csv_corpus import open_corpus, write_corpus
from ser_personal.corpus.splits import by_split, first_few, grouped, known_speakers, shared_speakers
from ser_personal.corpus.table import check_ending, write_rows
from ser_personal.errors import UserError
from ser_personal.files import content_hash, refuse_existing
from ser_personal.types import ATTRIBUTES, Utterance

# what the datamodules crop to, unless set otherwise
CROPPED_ABOVE = 250_000
PROBLEMS = ".problems.csv"
OVERLAP = 0.1  # seconds that neighbouring segments may have in common


class Kind(NamedTuple):
    """A sort of problem; training fails for a fatal one."""

    title: str
    fatal: bool = False


EMPTY_SET = Kind("split without utterances", fatal=True)
OTHER_SPLIT = Kind("split called neither train, validation nor test1, test2, ..., so it is a test set of its own")
DUPLICATE_ID = Kind("utterance id listed more than once", fatal=True)
LABEL_OUTSIDE = Kind("label outside the scale", fatal=True)
LABEL_MISSING = Kind("label missing")
NO_LABEL = Kind("split without any label: enough for pre-training, not for fine-tuning")
ONE_LABEL = Kind("attribute with the same label in all of the validation set: the best epoch can't be chosen by it")
NO_SPEAKER = Kind("split without a known speaker: training leaves it out unless data.known_speakers_only is false")
SHARED_SPEAKER = Kind("speaker in train and in another split", fatal=True)
VALIDATION_SPEAKER = Kind("speaker in validation and in a test set: the checkpoint is chosen on it")
CROPPED = Kind(f"audio longer than {CROPPED_ABOVE / SAMPLE_RATE:g} s: training crops it")
OTHER_FORMAT = Kind("audio not 16 kHz mono, converted on the fly")
SAME_AUDIO = Kind("the same sound under several ids")
LEAKED_AUDIO = Kind("the same sound in train and in another split: scores on it mean nothing")


class Problem(NamedTuple):
    """One thing that is wrong."""

    kind: Kind
    where: str  # the utterance, file, speaker or split
    detail: str = ""
    left_out: str | None = None  # id of the utterance that can't be used for it


class Sound(NamedTuple):
    """An utterance's audio."""

    seconds: float  # NaN where the header can't be read
    problems: Sequence[Problem]
    content: str | None = None  # hash of the samples; None where they can't be used or weren't decoded


def check(corpus: Corpus | str, write: str | None = None, *, decode: bool = True, replace: bool = False) -> int:
    """Read a corpus, list what is in it and everything wrong with it, and write what is usable as a table.

    Args:
        corpus: a folder in MSP-Podcast's layout, a corpus.csv, or a corpus class with its arguments.
        write: table to write, such as clean.csv: a corpus of the utterances that training can use. clean.problems.csv
            lists everything found, and with it what was left out and why. Speakers in two splits stay in both.
        decode: read every sample; false stops at the headers, and finds neither silence, damage inside a file nor
            copies.
        replace: replace files that exist already.

    Returns:
        1 where training would fail, on the written table where there is one; else 0.
    """
    if write is not None:
        check_ending(Path(write))
        refuse_existing(write, Path(write).with_suffix(PROBLEMS), replace=replace)
    console = Console()
    opened = open_corpus(corpus)
    utterances, problems = examine(opened, console, decode=decode)
    _show(utterances, console)
    _print(problems, console)
    if not problems:
        console.print("[green]No problem found.[/green]")
    outside = any(problem.kind is LABEL_OUTSIDE for problem in problems)
    if outside and (flags := opened.scale_flags(utterances)):
        line = f"Where that is the corpus's scale: `ser check {flags.replace('--data.corpus', '--corpus')}`"
        console.print(line, soft_wrap=True, markup=False, highlight=False)
    if write is not None:
        problems = _write(utterances, problems, opened, Path(write), console)
    return int(any(problem.kind.fatal for problem in problems))


def _write(
    utterances: Sequence[Utterance], problems: Sequence[Problem], corpus: Corpus, path: Path, console: Console
) -> list[Problem]:
    left_out = {problem.left_out for problem in problems}
    usable = [utterance for utterance in utterances if utterance.utterance_id not in left_out]
    if not usable:
        raise UserError("no utterance is usable", where=corpus.label_file, remedy="Correct what is listed above")
    write_corpus(usable, path)
    listing = path.with_suffix(PROBLEMS)
    rows = [(each.kind.title, each.where, each.detail, each.left_out) for each in problems]
    write_rows(listing, ("problem", "where", "detail", "left_out"), rows)
    low, high = corpus.scale
    written = f"{len(usable):,} of {len(utterances):,} utterances, labels from {low:g} to {high:g}"
    console.print(f"Wrote {path} ({written}) and {listing}.", soft_wrap=True, markup=False)
    remaining = [problem for problem in _set_problems(usable, corpus.allow_overlap) if problem.kind.fatal]
    _print(remaining, console)
    return remaining


def examine(corpus: Corpus, console: Console, *, decode: bool) -> tuple[list[Utterance], list[Problem]]:
    """Read all of a corpus and find everything wrong with it; progress goes to the console."""
    listed = corpus.listed()
    with ThreadPool(HEADER_THREADS) as threads:
        done = threads.imap(partial(examine_sound, decode=decode), listed, chunksize=32)
        hidden = not console.is_terminal
        sounds = list(track(done, "reading audio", len(listed), console=console, transient=True, disable=hidden))
    utterances = corpus.cut([replace(each, seconds=sound.seconds) for each, sound in zip(listed, sounds, strict=True)])
    problems = [
        *_set_problems(utterances, corpus.allow_overlap),
        *(Problem(DUPLICATE_ID, name, left_out=name) for name in duplicates(utterances)),
        *_label_problems(utterances, corpus.scale),
        *chain(*(sound.problems for sound in sounds)),
        *_same_sounds(utterances, sounds),
        *_overlapping(utterances),
    ]
    return utterances, problems


def examine_sound(utterance: Utterance, *, decode: bool) -> Sound:
    """Read an utterance's header and, with `decode`, its samples, judged as training judges them."""
    seconds, where = nan, str(utterance.path)
    try:
        header = read_header(utterance.path)
        seconds = seconds_of(utterance, header.num_samples)
        num_samples = round(seconds * SAMPLE_RATE)
        waveform = decode_utterance(replace(utterance, seconds=seconds)) if decode else None
        fault = fault_of(waveform) if waveform is not None else TOO_SHORT if num_samples < WINDOW else None
    except UserError as error:
        fault = error.what
    if fault is not None:
        return Sound(seconds, [Problem(Kind(fault, fatal=True), where, left_out=utterance.utterance_id)])
    problems = []
    if num_samples > CROPPED_ABOVE:
        problems.append(Problem(CROPPED, where, f"{seconds:.1f} s"))
    if (header.sample_rate, header.channels) != (SAMPLE_RATE, 1):
        problems.append(Problem(OTHER_FORMAT, where, f"{header.sample_rate} Hz, {header.channels} channels"))
    return Sound(seconds, problems, None if waveform is None else content_hash(waveform))


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
        for attribute in ATTRIBUTES if name == "validation" else ():
            if len({label for each in sets[name] if not isnan(label := each.labels.get(attribute, nan))}) == 1:
                yield Problem(ONE_LABEL, attribute)
    others = sets.keys() - {"train", "validation"}
    yield from (Problem(OTHER_SPLIT, name) for name in sorted(others) if not name.startswith("test"))
    for name, speakers in shared_speakers(sets).items():
        if name not in allow_overlap:
            yield from (Problem(SHARED_SPEAKER, speaker, name) for speaker in speakers)
    for name, speakers in shared_speakers(sets, of="validation").items():
        if name in others:
            yield from (Problem(VALIDATION_SPEAKER, speaker, name) for speaker in speakers)


def _label_problems(utterances: Sequence[Utterance], scale: tuple[float, float]) -> Iterator[Problem]:
    for utterance in utterances:
        for name, label in labels_outside(utterance, scale).items():
            yield Problem(LABEL_OUTSIDE, utterance.utterance_id, f"{name} {label:g}", utterance.utterance_id)
    used = {name for each in utterances for name, label in each.labels.items() if not isnan(label)}
    for utterance in utterances:
        missing = [name for name, label in utterance.labels.items() if name in used and isnan(label)]
        if missing:
            yield Problem(LABEL_MISSING, utterance.utterance_id, ", ".join(missing))


def _same_sounds(utterances: Sequence[Utterance], sounds: Sequence[Sound]) -> Iterator[Problem]:
    contents = [sound.content for sound in sounds]
    for content, group in grouped(zip(contents, utterances, strict=True)).items():
        if content is not None and len(group) > 1:
            splits = {utterance.split for utterance in group}
            kind = LEAKED_AUDIO if "train" in splits and len(splits) > 1 else SAME_AUDIO
            yield Problem(kind, str(group[0].path), _placed(group))


def _overlapping(utterances: Sequence[Utterance]) -> Iterator[Problem]:
    for path, segments in grouped((utterance.path, utterance) for utterance in utterances).items():
        last: dict[bool, tuple[float, Utterance]] = {}
        for each in sorted(segments, key=lambda segment: segment.start or 0.0):
            start, trains = each.start or 0.0, each.split == "train"
            end, other = last.get(not trains, (0.0, each))
            if end - start > OVERLAP:
                yield Problem(LEAKED_AUDIO, str(path), _placed([other, each]))
            last[trains] = max(last.get(trains, (0.0, each)), (start + each.seconds, each), key=lambda ended: ended[0])


def _placed(utterances: Sequence[Utterance]) -> str:
    return first_few([f"{utterance.utterance_id} in {utterance.split}" for utterance in utterances])


def _range(values: pd.Series[float]) -> str:
    return f"{values.mean():.2f} ({values.min():.2f} to {values.max():.2f})" if values.count() else "none"


def _show(utterances: Sequence[Utterance], console: Console) -> None:
    columns = ["split", "speaker_id", "seconds", *ATTRIBUTES]
    splits = pd.DataFrame([vars(each) | each.labels for each in utterances], columns=columns).groupby("split")
    contents = {
        "utterances": splits.size(),
        # audio whose header can't be read doesn't count
        "hours": splits["seconds"].sum() / 3600,
        "speakers": splits["speaker_id"].nunique(),
        "of unknown speakers": splits.size() - splits["speaker_id"].count(),
    }
    for table in (pd.DataFrame(contents).round(2), splits[columns[2:]].agg(_range)):
        console.print(table.to_string(), soft_wrap=True, markup=False, highlight=False)


def _print(problems: Iterable[Problem], console: Console) -> None:
    fatal_first = sorted(problems, key=lambda problem: not problem.kind.fatal)
    for kind, group in grouped((problem.kind, problem) for problem in fatal_first).items():
        label = "[red]error[/red]" if kind.fatal else "[yellow]note[/yellow]"
        named = first_few([f"{where} ({detail})" if detail else where for _, where, detail, _ in group])
        console.print(f"{label}: {kind.title} ({len(group):,}): {escape(named)}", soft_wrap=True)
