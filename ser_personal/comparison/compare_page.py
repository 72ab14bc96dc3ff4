"""The comparison as a page of Markdown, as flat tables, on the screen, in LaTeX and as a forest plot."""

import sys
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from math import isnan
from pathlib import Path

import pandas as pd

from ser_personal.calibration.table import decimal
from ser_personal.comparison.compare import ComparedRow, ComparedSet
from ser_personal.comparison.runs import duration
from ser_personal.evaluation.run_files import RIDGE
from ser_personal.files import atomic_write
from ser_personal.report.bootstrap import Bootstrap, Estimate, interval, signed_interval
from ser_personal.report.figures import CALIBRATED, INK, RAW, short, style

NO_TRAINING = {"synth", "folds", "check", "import", "test"}
# characters of a name in a plot
LONGEST = 36
READ_STAGES = (
    "Memory is that of the largest run, CPU time that of the main process. Audio counts each time it passes through "
    "the model. Shared steps serve several recipes, and are listed with each that needs them. A dash: not measured."
)
READ_PRETRAINING = (
    "Of the checkpoint that each pre-training kept: cross-entropy in nats per masked frame, and the share of masked "
    "frames whose cluster is found, on held-out utterances of pre-training speakers, and on speakers outside "
    "pre-training. Losses compare only where the pseudo-labels are the same."
)
READ_GAP = (
    "Both sides have the same test speakers, as many training speakers and as many training utterances; the dependent "
    "one has other utterances of the test speakers among them. Predictions are uncalibrated, and the gap is dependent "
    "minus independent over the same draws of the speakers."
)


def page(
    sets: Sequence[ComparedSet], costs: pd.DataFrame, pretrained: pd.DataFrame, baseline: str, bootstrap: Bootstrap
) -> str:
    """Write the page: a section for each test set and attribute, then costs, pre-training and gaps."""
    parts = [
        "# Comparison",
        "O-CCC is one CCC over all utterances, A-CCC the mean of speakers' own. In brackets 95 % intervals from "
        f"{bootstrap.resamples} draws of the test speakers, the same draws for every row, each speaker's CCC averaged "
        "over seeds first; they say how far other speakers could change a figure, not other seeds. Differences are to "
        f"{baseline}, over the same draws. An oracle reads test labels and is never a result.",
    ]
    headings = ["recipe", "calibration", "seeds", "O-CCC", "A-CCC", "O-CCC difference", "A-CCC difference"]
    for compared in sets:
        rows = [
            [
                row.system.recipe,
                row.system.calibration + (" (oracle)" if row.system.is_oracle else ""),
                str(row.system.seeds),
                *map(interval, row.scores.values()),
                *(_gain(row, metric) for metric in row.scores),
            ]
            for row in compared.rows
        ]
        parts += [f"## {compared.test.title}", about(compared), _table(headings, rows)]
    if len(costs):
        headings = ["recipe", "stage", "trained parameters", "time", "CPU time", "audio", "GPU memory"]
        rows = [
            [
                stage["recipe"],
                stage["stage"] + (" (shared)" if stage["is_shared"] else ""),
                _or_dash(stage["trained_parameters"], "{:,.0f}".format),
                duration(stage["seconds"]),
                _or_dash(stage["cpu_seconds"], duration),
                _or_dash(stage["speech_seconds"], duration),
                _or_dash(stage["device_memory"], lambda size: f"{size / 2**30:.2f} GiB"),
            ]
            for stage in costs.to_dict("records")
        ]
        parts += ["## Cost", _table(headings, rows), READ_STAGES]
    if len(pretrained):
        headings = ["pre-training", "runs", "loss", "accuracy", "loss, unseen speakers", "accuracy, unseen speakers"]
        rows = [[step, str(runs), *map(decimal, scores)] for step, runs, *scores in pretrained.to_numpy()]
        parts += ["## Pre-training", _table(headings, rows), READ_PRETRAINING]
    with_gap = [compared for compared in sets if compared.gaps]
    parts += ["## Personalisation gap", READ_GAP] if with_gap else []
    for compared in with_gap:
        rows = [[name, *map(signed_interval, gap.values())] for name, gap in compared.gaps.items()]
        parts += [f"### {compared.test.title}", _table(["dependent side", "O-CCC gap", "A-CCC gap"], rows)]
    return "\n\n".join(parts) + "\n"


def about(compared: ComparedSet) -> str:
    """How many speakers a set's scores are over, why some have no interval, and what was left out."""
    estimates = [estimate for row in compared.rows for estimate in row.scores.values()]
    reasons = dict.fromkeys(estimate.refused for estimate in estimates if estimate.refused)
    few = f"A-CCC over {compared.counted} with at least {compared.min_utterances} utterances"
    refusals = [f"no interval: {reason}" for reason in reasons]
    return "; ".join([f"{len(compared.test.speakers)} speakers, {few}", *refusals, *compared.test.notes]) + "."


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    # a | would end the cell
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)


def _or_dash(value: float, formatted: Callable[[float], str]) -> str:
    return "-" if isnan(value) else formatted(value)


def _gain(row: ComparedRow, metric: str) -> str:
    return "baseline" if row.gains is None else signed_interval(row.gains[metric])


def flat(sets: Sequence[ComparedSet], costs: pd.DataFrame) -> pd.DataFrame:
    """One line a system, test set and attribute, with what its recipe costs; blank where undefined."""
    # to train one model of each recipe from the corpus, shared steps included
    seconds = costs[~costs["command"].isin(NO_TRAINING)].groupby("recipe", sort=False)["seconds"].sum()
    return pd.DataFrame(
        {
            "split": compared.test.split,
            "attribute": compared.test.attribute,
            "recipe": row.system.recipe,
            "calibration": row.system.calibration,
            "is_oracle": row.system.is_oracle,
            "seeds": row.system.seeds,
            "speakers": len(compared.test.speakers),
            "average_ccc_speakers": compared.counted,
            "training_seconds": seconds.get(row.system.recipe),
            **_numbers(row.scores),
            **_numbers(row.gains, "_difference"),
            **_numbers(compared.gaps.get(row.system.name), "_gap"),
        }
        for compared in sets
        for row in compared.rows
    )


def _numbers(estimates: Mapping[str, Estimate] | None, what: str = "") -> dict[str, float]:
    return {
        f"{metric}{what}{end}": number
        for metric, of in (estimates or {}).items()
        for end, number in (("", of.value), ("_low", of.low), ("_high", of.high))
    }


def summary(compared: ComparedSet) -> list[ComparedRow]:
    """The rows of the summary: each recipe's raw predictions and, where there are any, PLDC's."""
    firsts = {system.recipe: system.calibration for system in reversed(compared.test.systems)}
    return [row for row in compared.rows if row.system.calibration in {firsts[row.system.recipe], "sigma"}]


def row_label(row: ComparedRow) -> str:
    """The name of a row of the summary, by its recipe."""
    return row.system.recipe if row.system.calibration in {"raw", RIDGE} else f"{row.system.recipe} + PLDC"


def _cells(row: ComparedRow) -> list[str]:
    scores = [decimal(score.value) for score in row.scores.values()]
    return [row_label(row), *scores, _gain(row, "average_ccc")]


def show_sets(sets: Sequence[ComparedSet], baseline: str, page: str) -> None:
    """Print one table: recipe, O-CCC, A-CCC and the difference in A-CCC to the baseline, by test set and attribute."""
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    # a file or a pipe has no width that names would have to fit
    console = Console() if sys.stdout.isatty() else Console(width=250)
    table = Table(box=box.SIMPLE, show_edge=False, padding=(0, 1))
    for heading in ("recipe", "O-CCC", "A-CCC", "difference in A-CCC"):
        table.add_column(heading, justify="left" if heading == "recipe" else "right")
    for compared in sets:
        if len(sets) > 1:
            table.add_row(f"[bold]{escape(compared.test.title)}[/]")
        for row in summary(compared):
            table.add_row(*map(escape, _cells(row)))
        table.add_section()
    console.print(table)
    for compared in sets:
        about_set = f"{compared.test.split}, {compared.test.attribute}: {about(compared)}"
        console.print(about_set, style="dim", markup=False)
    under = f"Differences are to {baseline}, paired, with 95 % intervals over speakers; the controls are in {page}."
    console.print(under, markup=False, soft_wrap=True)


def latex(sets: Sequence[ComparedSet], baseline: str) -> str:
    """The table of the screen for a paper, with booktabs' lines."""
    rows = [[compared.test.title, *_cells(row)] for compared in sets for row in summary(compared)]
    table = pd.DataFrame(rows, columns=["Test set", "Recipe", "O-CCC", "A-CCC", "Difference in A-CCC"])
    text = table.to_latex(index=False, escape=True, column_format="llrrr").replace("-.", "$-$.").replace("+.", "$+$.")
    return f"% differences in A-CCC to {baseline}, paired, 95 % intervals over speakers\n{text}"


def draw_forest(sets: Sequence[ComparedSet], baseline: str, path: Path) -> None:
    """Draw what each row of the summary gains in A-CCC over the baseline, the greatest gain first."""
    from matplotlib.figure import Figure

    gains_of = []
    for compared in sets:
        gains = [(row, row.gains["average_ccc"]) for row in summary(compared) if row.gains]
        gains_of.append(sorted(gains, key=lambda gain: -gain[1].value))
    heights = [1.0 + 0.3 * max(len(gains), 1) for gains in gains_of]
    with style():
        figure = Figure(figsize=(6.5, sum(heights)), layout="constrained", dpi=150)
        panels = figure.subplots(len(sets), 1, squeeze=False, height_ratios=heights)[:, 0]
        for axes, compared, gains in zip(panels, sets, gains_of, strict=True):
            axes.axvline(0, color=INK, linewidth=0.8, linestyle=":")
            for y, (row, estimate) in enumerate(gains):
                colour = CALIBRATED if row.system.calibration == "sigma" else RAW
                axes.plot([estimate.low, estimate.high], [y, y], color=colour)
                axes.plot([estimate.value], [y], "o", color=colour, markersize=6)
            axes.set_yticks(range(len(gains)), [short(row_label(row), LONGEST) for row, _ in gains])
            axes.set_ylim(max(len(gains), 1) - 0.4, -0.6)
            axes.set_title(compared.test.title)
            axes.grid(axis="x")
        panels[-1].set_xlabel(f"A-CCC minus that of {short(baseline, LONGEST)},\n95 % intervals over speakers")
        content = BytesIO()
        figure.savefig(content)
    atomic_write(path, content.getvalue())
