"""The comparison as a page of Markdown, as flat tables, on the screen, in LaTeX and as a forest plot."""

from __future__ import annotations

import sys
from dataclasses import asdict
from io import BytesIO
from math import isnan
from typing import TYPE_CHECKING, Any

from ser_personal.calibration.table import decimal
from ser_personal.comparison.runs import duration
from ser_personal.evaluation.run_files import RIDGE
from ser_personal.files import atomic_write
from ser_personal.report.bootstrap import gain, with_interval
from ser_personal.report.figures import CALIBRATED, INK, RAW, style

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import pandas as pd

    from ser_personal.comparison.compare import ComparedRow, ComparedSet, GapRow
    from ser_personal.comparison.runs import PretrainingRow, RecipeCost, RecipeStage
    from ser_personal.report.bootstrap import Bootstrap, Estimate

METRICS = {"overall_ccc": "O-CCC", "average_ccc": "A-CCC"}
# characters of a name in a plot
LONGEST = 36
SIDES = ("independent", "dependent", "gap")
READ_TOTALS = "Cost of training one model from the corpus, shared steps included: the mean over a recipe's runs."
READ_STAGES = (
    "Peak memory is that of the largest run. Audio is counted each time it passes through the model. Shared steps "
    "serve several recipes, and are listed with each that needs them. A dash means: not measured."
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
    sets: Sequence[ComparedSet],
    costs: Sequence[RecipeCost],
    pretrained: Sequence[PretrainingRow],
    baseline: str,
    bootstrap: Bootstrap,
) -> str:
    """Write the page: a section for each test set and attribute, then costs, pre-training and gaps."""
    parts = [
        "# Comparison",
        "O-CCC is one CCC over all utterances, A-CCC the mean of speakers' own. In brackets 95 % intervals from "
        f"{bootstrap.resamples} draws of the test speakers, the same draws for every row, each speaker's CCC averaged "
        "over seeds first; they say how far other speakers could change a figure, not other seeds. Differences are to "
        f"{baseline}, over the same draws. An oracle reads test labels and is never a result.",
    ]
    for compared in sets:
        parts += _section(compared)
    parts += _costs(costs)
    if pretrained:
        headings = ["pre-training", "runs", "loss", "accuracy", "loss, unseen speakers", "accuracy, unseen speakers"]
        rows = [
            [of.step, str(of.runs), *(_or_dash(each, decimal) for each in asdict(of.scores).values())]
            for of in pretrained
        ]
        parts += ["## Pre-training", _table(headings, rows), READ_PRETRAINING]
    return "\n\n".join([*parts, *_gaps(sets)]) + "\n"


def _section(compared: ComparedSet) -> list[str]:
    headings = ["recipe", "calibration", "seeds", "O-CCC", "A-CCC", "O-CCC difference", "A-CCC difference"]
    rows = [
        [
            row.recipe,
            row.calibration + (" (oracle)" if row.is_oracle else ""),
            str(row.seeds),
            with_interval(row.overall_ccc),
            with_interval(row.average_ccc),
            gain(row.overall_gain),
            gain(row.average_gain),
        ]
        for row in compared.rows
    ]
    return [f"## {compared.split}: {compared.attribute}", about(compared), _table(headings, rows)]


def about(compared: ComparedSet) -> str:
    """Whom the scores of a set are of, why some have no interval, and what was left out."""
    estimates = [estimate for row in compared.rows for estimate in (row.overall_ccc, row.average_ccc)]
    reasons = dict.fromkeys(estimate.refused for estimate in estimates if estimate.refused)
    few = f"A-CCC over {compared.counted} with at least {compared.min_utterances} utterances"
    refusals = [f"no interval: {reason}" for reason in reasons]
    return "; ".join([f"{compared.speakers} speakers, {few}", *refusals, *compared.notes]) + "."


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    # a | would end the cell
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)


def _or_dash(value: Any, formatted: Callable[[Any], str]) -> str:
    return "-" if value is None else formatted(value)


def _costs(costs: Sequence[RecipeCost]) -> list[str]:
    if not costs:
        return []
    totals = [
        [cost.recipe, duration(cost.training_seconds), _or_dash(cost.training_cpu_seconds, duration)]
        for cost in costs
        if cost.training_seconds
    ]
    headings = ["recipe", "stage", "trained parameters", "time", "CPU time", "audio", "peak memory"]
    stages = _table(headings, [[cost.recipe, *_stage(stage)] for cost in costs for stage in cost.stages])
    trained = [_table(["training", "time", "CPU time"], totals), READ_TOTALS] if totals else []
    return ["## Cost", *trained, stages, READ_STAGES]


def _stage(stage: RecipeStage) -> list[str]:
    cost = stage.cost
    return [
        stage.name + (" (shared)" if stage.is_shared else ""),
        _or_dash(cost.trained_parameters, "{:,}".format),
        duration(cost.seconds),
        _or_dash(cost.cpu_seconds, duration),
        _or_dash(cost.speech_seconds, duration),
        _or_dash(cost.peak_memory, lambda size: f"{size / 2**30:.2f} GiB"),
    ]


def _gaps(sets: Sequence[ComparedSet]) -> list[str]:
    with_gap = [compared for compared in sets if compared.gaps]
    parts = ["## Personalisation gap", READ_GAP] if with_gap else []
    headings = ["recipe", "training speakers", "seeds"]
    headings += [f"{name} {what}" for name in METRICS.values() for what in SIDES]

    def cells(row: GapRow) -> list[str]:
        scores = [getattr(row, metric) for metric in METRICS]
        sides = [[with_interval(of["independent"]), with_interval(of["dependent"]), gain(of["gap"])] for of in scores]
        return [row.recipe, str(row.training_speakers), str(row.seeds), *sides[0], *sides[1]]

    for compared in with_gap:
        table = _table(headings, [cells(row) for row in compared.gaps])
        parts += [f"### {compared.split}: {compared.attribute}", about(compared), table]
    return parts


def flat(sets: Sequence[ComparedSet], costs: Sequence[RecipeCost]) -> pd.DataFrame:
    """One line a system, test set and attribute, with what its recipe costs; blank where undefined."""
    import pandas as pd

    seconds = {cost.recipe: cost.training_seconds for cost in costs}
    return pd.DataFrame(
        {
            "split": compared.split,
            "attribute": compared.attribute,
            "recipe": row.recipe,
            "calibration": row.calibration,
            "is_oracle": row.is_oracle,
            "seeds": row.seeds,
            "speakers": compared.speakers,
            "average_ccc_speakers": compared.counted,
            **_numbers({"overall_ccc": row.overall_ccc, "average_ccc": row.average_ccc}),
            **_numbers({"overall_ccc_difference": row.overall_gain, "average_ccc_difference": row.average_gain}),
            "training_seconds": seconds.get(row.recipe),
        }
        for compared in sets
        for row in compared.rows
    )


def flat_pretraining(rows: Sequence[PretrainingRow]) -> pd.DataFrame:
    """One line a pre-training step; blank where undefined."""
    import pandas as pd

    return pd.DataFrame({"step": row.step, "runs": row.runs, **asdict(row.scores)} for row in rows)


def flat_gaps(sets: Sequence[ComparedSet]) -> pd.DataFrame:
    """One line a recipe, number of training speakers, test set and attribute; blank where undefined."""
    import pandas as pd

    return pd.DataFrame(
        {
            "split": compared.split,
            "attribute": compared.attribute,
            "recipe": row.recipe,
            "training_speakers": row.training_speakers,
            "seeds": row.seeds,
            "speakers": compared.speakers,
            "average_ccc_speakers": compared.counted,
            **_numbers({f"{metric}_{side}": getattr(row, metric)[side] for metric in METRICS for side in SIDES}),
        }
        for compared in sets
        for row in compared.gaps
    )


def _numbers(estimates: dict[str, Estimate | None]) -> dict[str, float | None]:
    ends = {"": "value", "_low": "low", "_high": "high"}
    return {
        f"{name}{end}": None if estimate is None else getattr(estimate, field)
        for name, estimate in estimates.items()
        for end, field in ends.items()
    }


def summary(compared: ComparedSet) -> list[ComparedRow]:
    """The rows of the summary: each recipe's raw predictions and, where there are any, PLDC's."""
    firsts = {row.recipe: row.calibration for row in reversed(compared.rows)}
    return [row for row in compared.rows if row.calibration in {firsts[row.recipe], "sigma"}]


def row_label(row: ComparedRow) -> str:
    """The name of a row of the summary, by its recipe."""
    return row.recipe if row.calibration in {"raw", RIDGE} else f"{row.recipe} + PLDC"


def _cells(row: ComparedRow) -> list[str]:
    scores = decimal(row.overall_ccc.value), decimal(row.average_ccc.value)
    return [row_label(row), *scores, gain(row.average_gain)]


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
            table.add_row(f"[bold]{escape(compared.split)}: {escape(compared.attribute)}[/]")
        for row in summary(compared):
            table.add_row(*map(escape, _cells(row)))
        table.add_section()
    console.print(table)
    for compared in sets:
        console.print(f"{compared.split}, {compared.attribute}: {about(compared)}", style="dim", markup=False)
    compared_to = [one for one in sets if any(row.average_gain is not None for row in summary(one))]
    if without := [f"{one.split}, {one.attribute}" for one in compared_to if not _gains(one)]:
        lacking = f"{baseline} predicts nothing to compare with of {'; '.join(without)}: --baseline names another."
        console.print(lacking, markup=False, soft_wrap=True)
    under = f"Differences are to {baseline}, paired, with 95 % intervals over speakers; the controls are in {page}."
    console.print(under, markup=False, soft_wrap=True)


def latex(sets: Sequence[ComparedSet], baseline: str) -> str:
    """The table of the screen for a paper, with booktabs' lines."""
    named = {"\\": r"\textbackslash{}", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}"}
    escapes = str.maketrans({sign: f"\\{sign}" for sign in "&%$#_{}"} | named)

    def signs(text: str) -> str:
        return text.translate(escapes)

    lines = [f"% differences in A-CCC to {baseline}, paired, 95 % intervals over speakers", r"\begin{tabular}{lrrr}"]
    lines += [r"\toprule", r"Recipe & O-CCC & A-CCC & Difference in A-CCC \\"]
    for compared in sets:
        lines += [r"\midrule", rf"\multicolumn{{4}}{{l}}{{{signs(f'{compared.split}, {compared.attribute}')}}} \\"]
        for row in summary(compared):
            cells = " & ".join(map(signs, _cells(row)))
            lines.append(rf"{cells} \\".replace("-.", "$-$.").replace("+.", "$+$."))
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def _gains(compared: ComparedSet) -> list[tuple[Estimate, ComparedRow]]:
    """What each row gains over the baseline, the greatest first; nothing where the baseline isn't there."""
    found = [(row.average_gain, row) for row in summary(compared) if row.average_gain is not None]
    return sorted((pair for pair in found if not isnan(pair[0].value)), key=lambda pair: -pair[0].value)


def _abridged(name: str) -> str:
    """A name that leaves room for what is drawn beside it."""
    return name if len(name) <= LONGEST else f"{name[: LONGEST // 2]}...{name[-LONGEST // 2 :]}"


def draw_forest(sets: Sequence[ComparedSet], baseline: str, path: Path) -> None:
    """Draw what each row of the summary gains in A-CCC over the baseline, the greatest gain first."""
    from matplotlib.figure import Figure

    sets = [compared for compared in sets if _gains(compared)] or sets
    gains = [_gains(compared) for compared in sets]
    heights = [1.0 + 0.3 * max(len(rows), 1) for rows in gains]
    with style():
        figure = Figure(figsize=(6.5, sum(heights)), layout="constrained", dpi=150)
        panels = figure.subplots(len(sets), 1, squeeze=False, height_ratios=heights)[:, 0]
        for axes, compared, rows in zip(panels, sets, gains, strict=True):
            axes.axvline(0, color=INK, linewidth=0.8, linestyle=":")
            for y, (estimate, row) in enumerate(rows):
                colour = CALIBRATED if row.calibration == "sigma" else RAW
                if estimate.refused is None:
                    axes.plot([estimate.low, estimate.high], [y, y], color=colour)
                axes.plot([estimate.value], [y], "o", color=colour, markersize=6)
            axes.set_yticks(range(len(rows)), [_abridged(row_label(row)) for _, row in rows])
            axes.set_ylim(max(len(rows), 1) - 0.4, -0.6)
            axes.set_title(f"{compared.split}: {compared.attribute}")
            axes.grid(axis="x")
        panels[-1].set_xlabel(f"A-CCC minus that of {_abridged(baseline)},\n95 % intervals over speakers")
        content = BytesIO()
        figure.savefig(content)
    atomic_write(path, content.getvalue())
