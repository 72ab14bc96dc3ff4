"""`ser check`: what is in a corpus, and everything wrong with it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ser_personal.corpus.audio_facts import look_at_all, same_files
from ser_personal.corpus.base import Corpus  # jsonargparse resolves it at run time
from ser_personal.corpus.contents import QUANTILES, contents_of
from ser_personal.corpus.problem_kinds import Problem, by_kind
from ser_personal.corpus.problems import find_problems
from ser_personal.corpus.resolve import open_corpus
from ser_personal.corpus.splits import first_few
from ser_personal.files import write_whole
from ser_personal.types import ATTRIBUTES

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ser_personal.corpus.contents import SetContents

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
    write_whole(path, f"{json.dumps(content, indent=2, allow_nan=False)}\n".encode())


def _rates(files: Mapping[int, int]) -> str:
    if len(files) == 1:
        return f"{next(iter(files)):,}"
    return ", ".join(f"{rate:,} ({count:,} files)" for rate, count in files.items())


def _table(title: str, columns: Iterable[str]) -> Table:
    table = Table("split", title=title, title_justify="left")
    for name in columns:
        table.add_column(name, justify="right")
    return table
