"""`ser check`: what is in a corpus, and everything wrong with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ser_personal.corpus.base import Corpus  # jsonargparse resolves it at run time
from ser_personal.corpus.problems import Problem, by_kind, find_problems
from ser_personal.corpus.resolve import open_corpus
from ser_personal.corpus.splits import by_split, first_few, known_speakers
from ser_personal.types import ATTRIBUTES

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from ser_personal.types import Utterance

QUANTILES = {"shortest": 0.0, "5 %": 0.05, "median": 0.5, "95 %": 0.95, "longest": 1.0}


def check(corpus: Corpus | str) -> int:
    """Read a corpus, list what is in it and everything wrong with it.

    Args:
        corpus: a folder in MSP-Podcast's layout, a corpus.csv, or a corpus class with its arguments.

    Returns:
        1 where training would fail, else 0.

    Raises:
        UserError: the label file can't be read.
    """
    corpus = open_corpus(corpus)
    utterances = corpus.arranged(corpus.listed())
    problems = find_problems(utterances, corpus.scale, corpus.allow_overlap)
    sets = by_split(utterances)
    console = Console()
    console.print(contents_table(sets), durations_table(sets), labels_table(sets), sep="\n")
    for line in problem_lines(problems):
        console.print(line, soft_wrap=True)
    return int(any(problem.kind.fatal for problem in problems))


def contents_table(sets: Mapping[str, Sequence[Utterance]]) -> Table:
    """Tabulate the size and speakers of each set."""
    table = _table("Contents", ("utterances", "hours", "speakers", "of unknown speakers"))
    for name, utterances in sets.items():
        table.add_row(
            escape(name),
            f"{len(utterances):,}",
            f"{_present([utterance.seconds for utterance in utterances]).sum() / 3600:,.2f}",
            f"{len(known_speakers(utterances)):,}",
            f"{sum(utterance.speaker_id is None for utterance in utterances):,}",
        )
    return table


def durations_table(sets: Mapping[str, Sequence[Utterance]]) -> Table:
    """Tabulate quantiles of the durations of each set."""
    table = _table("Seconds an utterance", QUANTILES)
    for name, utterances in sets.items():
        seconds = _present([utterance.seconds for utterance in utterances])
        cells = [f"{value:.2f}" for value in np.quantile(seconds, list(QUANTILES.values()))] if seconds.size else []
        table.add_row(escape(name), *cells)
    return table


def labels_table(sets: Mapping[str, Sequence[Utterance]]) -> Table:
    """Tabulate the mean and range of the labels of each set."""
    table = _table("Labels: mean (lowest to highest)", ATTRIBUTES)
    for name, utterances in sets.items():
        columns = [_present([utterance.labels[attribute] for utterance in utterances]) for attribute in ATTRIBUTES]
        table.add_row(
            escape(name), *(f"{x.mean():.2f} ({x.min():.2f} to {x.max():.2f})" if x.size else "none" for x in columns)
        )
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


def _table(title: str, columns: Iterable[str]) -> Table:
    table = Table("split", title=title, title_justify="left")
    for name in columns:
        table.add_column(name, justify="right")
    return table


def _present(values: Sequence[float]) -> NDArray[np.float64]:
    array = np.array(values, dtype=np.float64)
    return array[~np.isnan(array)]
