"""The comparison as a page of Markdown, and as one flat table."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

from ser_personal.report.compare import PretrainingScores
from ser_personal.report.figures import CALIBRATED, INK, RAW, style
from ser_personal.report.formatting import decimal, duration, interval, signed, signed_interval

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import pandas as pd
    from matplotlib.axes import Axes

    from ser_personal.report.bootstrap import Bootstrap, Estimate
    from ser_personal.report.compare import (
        ComparedRow,
        ComparedRun,
        ComparedSet,
        GapRow,
        GapSet,
        RecipeCost,
        RecipeStage,
    )

ORACLE = " (oracle)"


def with_interval(estimate: Estimate) -> str:
    """A figure and its interval, alone where it has none."""
    return interval(estimate) if estimate.refused is None else decimal(estimate.value)


def gain(estimate: Estimate | None) -> str:
    """A difference and its interval, alone where it has none."""
    if estimate is None:
        return "baseline"
    return signed_interval(estimate) if estimate.refused is None else signed(estimate.value)


def calibration_name(row: ComparedRow) -> str:
    """A calibration as the tables name it: an oracle says so."""
    return row.calibration + (ORACLE if row.is_oracle else "")


def markdown_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Write a table, without strokes in its cells."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)


READ_TOTALS = (
    "To train one model from the corpus on, shared steps included: the mean over a recipe's runs. Operations are those "
    "of the steps that count them."
)
READ_STAGES = (
    "Peak memory is the largest run's. Audio counts every time that it went through the model. Floating-point "
    "operations are counted on some batches and scaled by audio. Shared steps serve several recipes, and are listed "
    "with each that needs them. A dash stands for what nothing counted."
)


def cost_tables(costs: Sequence[RecipeCost]) -> list[str]:
    """Both tables, each with how to read it; the former only of recipes whose training is on record."""
    trained = [cost for cost in costs if cost.training_seconds]
    totals = [_totals(trained), READ_TOTALS] if trained else []
    return [*totals, _stages(costs), READ_STAGES]


def _totals(costs: Sequence[RecipeCost]) -> str:
    rows = [
        [
            cost.recipe,
            duration(cost.training_seconds),
            "-" if cost.training_cpu_seconds is None else duration(cost.training_cpu_seconds),
            "-" if cost.training_flops is None else operations(cost.training_flops),
        ]
        for cost in costs
    ]
    return markdown_table(["training", "time", "CPU time", "operations"], rows)


def _stages(costs: Sequence[RecipeCost]) -> str:
    headings = ["recipe", "stage", "trained parameters", "time", "CPU time", "audio", "operations", "peak memory"]
    return markdown_table(headings, [[cost.recipe, *_stage(stage)] for cost in costs for stage in cost.stages])


def _stage(stage: RecipeStage) -> list[str]:
    return [
        stage.name + (" (shared)" if stage.is_shared else ""),
        "-" if stage.trained_parameters is None else f"{stage.trained_parameters:,}",
        duration(stage.seconds),
        "-" if stage.cpu_seconds is None else duration(stage.cpu_seconds),
        "-" if stage.speech_hours is None else duration(stage.speech_hours * 3600),
        "-" if stage.flops is None else operations(stage.flops),
        "-" if stage.peak_memory is None else f"{stage.peak_memory / 2**30:.2f} GiB",
    ]


def operations(flops: float) -> str:
    """Floating-point operations as people say them: 3.4 T, 1.2 P."""
    for unit, size in (("E", 1e18), ("P", 1e15), ("T", 1e12), ("G", 1e9)):
        if flops >= size:
            return f"{flops / size:.3g} {unit}"
    return f"{flops:.3g}"


def uncalibrated(compared: ComparedSet, baseline: str | None) -> str:
    """A table of the recipes' own predictions: scores, and differences to the baseline where there is one."""
    rows = [
        [row.recipe, str(row.seeds), with_interval(row.overall_ccc), with_interval(row.average_ccc)]
        + ([gain(row.overall_gain), gain(row.average_gain)] if baseline else [])
        for row in (calibrations[0] for calibrations in _by_recipe(compared).values())
    ]
    headings = ["recipe, uncalibrated", "seeds", "O-CCC", "A-CCC"]
    return markdown_table([*headings, *(["O-CCC difference", "A-CCC difference"] if baseline else [])], rows)


def calibrated(compared: ComparedSet) -> str | None:
    """A table of O-CCC / A-CCC, recipe x calibration; None where nothing was calibrated."""
    recipes = {name: rows for name, rows in _by_recipe(compared).items() if len(rows) > 1}
    names = list(dict.fromkeys(calibration_name(row) for rows in recipes.values() for row in rows))
    if not names:
        return None
    table = []
    for recipe, rows in recipes.items():
        scores = {
            calibration_name(row): f"{decimal(row.overall_ccc.value)} / {decimal(row.average_ccc.value)}"
            for row in rows
        }
        table.append([recipe, *(scores.get(name, "-") for name in names)])
    return markdown_table(["O-CCC / A-CCC", *names], table)


def _by_recipe(compared: ComparedSet) -> dict[str, list[ComparedRow]]:
    recipes: dict[str, list[ComparedRow]] = {}
    for row in compared.rows:
        recipes.setdefault(row.recipe, []).append(row)
    return recipes


SOURCE = (
    "Tran, Yin and Soleymani (Interspeech 2023), MSP-Podcast v1.6, test-b: 8,434 utterances of 50 speakers, "
    "HuBERT-large. Without the paper's predictions no paired difference can be taken, and on another test set none "
    "would mean anything."
)


@dataclass(frozen=True)
class PaperRow:
    """One row of the paper: scores of one attribute."""

    attribute: str
    system: str
    overall_ccc: float
    average_ccc: float


_SCORES = {
    "Vanilla-FT": (0.712, 0.512, 0.607, 0.514),
    "B2, data weighting": (0.735, 0.517, 0.650, 0.569),
    "TAPT-FT": (0.717, 0.518, 0.630, 0.542),
    "PAPT-FT": (0.740, 0.531, 0.663, 0.569),
    "PAPT-FT, mu": (0.722, 0.528, 0.660, 0.566),
    "PAPT-FT, sigma": (0.732, 0.541, 0.662, 0.578),
    "PAPT-FT, both": (0.713, 0.540, 0.657, 0.575),
}
PAPER = tuple(
    PaperRow(attribute, system, *scores[2 * place : 2 * place + 2])
    for place, attribute in enumerate(("arousal", "valence"))
    for system, scores in _SCORES.items()
)


def page(
    sets: Sequence[ComparedSet],
    costs: Sequence[RecipeCost],
    *,
    baseline: str | None,
    bootstrap: Bootstrap,
    min_utterances: int,
    paper: bool,
) -> str:
    """Write the whole page: a section a test set and attribute, the costs, and how to read them."""
    against = f" Differences are to {baseline}, over the same draws." if baseline else ""
    parts = [
        "# Comparison",
        f"O-CCC is one CCC over all utterances, A-CCC the mean of speakers' own, over those with at least "
        f"{min_utterances} utterances. In brackets 95 % intervals from {bootstrap.resamples} draws of the test "
        "speakers, the same draws for every row, each speaker's CCC averaged over seeds first; they tell how far other "
        f"speakers could change a figure, not other seeds.{against} An oracle reads test labels and is never a result.",
    ]
    for compared in sets:
        parts += _section(compared, baseline, min_utterances)
        if paper and (rows := [row for row in PAPER if row.attribute == compared.attribute]):
            cells = [[row.system, decimal(row.overall_ccc), decimal(row.average_ccc)] for row in rows]
            parts += [
                f"### The paper's {compared.attribute}",
                markdown_table(["system", "O-CCC", "A-CCC"], cells),
                SOURCE,
            ]
    if costs:
        parts += ["## Cost", *cost_tables(costs)]
    return "\n\n".join(parts) + "\n"


def _section(compared: ComparedSet, baseline: str | None, min_utterances: int) -> list[str]:
    counted = compared.counted
    headings = ["recipe", "calibration", "seeds", "O-CCC", "A-CCC"]
    headings += ["O-CCC difference", "A-CCC difference"] if baseline else []
    rows = [_cells(row, with_gains=baseline is not None) for row in compared.rows]
    notes = [*refusals(compared), *(f"{note}." for note in compared.notes)]
    told = " ".join([f"{compared.speakers} speakers; A-CCC over {counted[min_utterances]} of them.", *notes])
    parts = [
        f"## {compared.split}: {compared.attribute}",
        told,
        uncalibrated(compared, baseline),
    ]
    if (at_a_glance := calibrated(compared)) is not None:
        parts += [at_a_glance, "Each of them with its intervals:", markdown_table(headings, rows)]
    others = [least for least in counted if least != min_utterances]
    parts.append(
        f"A-CCC over speakers with at least {' or '.join(map(str, others))} utterances instead, "
        f"{' or '.join(str(counted[least]) for least in others)} speakers:"
    )
    sensitive = [
        [row.recipe, calibration_name(row), *(decimal(row.sensitivity[least]) for least in sorted(counted))]
        for row in compared.rows
    ]
    parts.append(
        markdown_table(["recipe", "calibration", *(f"at least {least}" for least in sorted(counted))], sensitive)
    )
    return parts


def _cells(row: ComparedRow, *, with_gains: bool) -> list[str]:
    gains = [gain(row.overall_gain), gain(row.average_gain)] if with_gains else []
    scores = [with_interval(row.overall_ccc), with_interval(row.average_ccc)]
    return [row.recipe, calibration_name(row), str(row.seeds), *scores, *gains]


def refusals(compared: ComparedSet) -> list[str]:
    """Why figures of a set have no interval, each reason once."""
    estimates = [estimate for row in compared.rows for estimate in (row.overall_ccc, row.average_ccc)]
    return [f"No interval: {reason}." for reason in dict.fromkeys(each.refused for each in estimates) if reason]


def flat(sets: Sequence[ComparedSet], costs: Sequence[RecipeCost], *, paper: bool) -> pd.DataFrame:
    """One line a system, test set and attribute, with what its recipe costs; blank where undefined."""
    import pandas as pd

    seconds = {cost.recipe: cost.training_seconds for cost in costs}
    lines: list[dict[str, object]] = [
        {
            "split": compared.split,
            "attribute": compared.attribute,
            "recipe": row.recipe,
            "calibration": row.calibration,
            "is_oracle": row.is_oracle,
            "seeds": row.seeds,
            "speakers": compared.speakers,
            **numbers("overall_ccc", row.overall_ccc),
            **numbers("average_ccc", row.average_ccc),
            **numbers("overall_ccc_difference", row.overall_gain),
            **numbers("average_ccc_difference", row.average_gain),
            **{f"average_ccc_from_{least}_utterances": value for least, value in row.sensitivity.items()},
            **{f"speakers_from_{least}_utterances": number for least, number in compared.counted.items()},
            "training_seconds": seconds.get(row.recipe),
        }
        for compared in sets
        for row in compared.rows
    ]
    if paper:
        lines += [
            {"split": "paper, test-b", "attribute": row.attribute, "recipe": row.system, "is_oracle": False}
            | {"overall_ccc": row.overall_ccc, "average_ccc": row.average_ccc}
            for row in PAPER
        ]
    return pd.DataFrame(lines)


def numbers(name: str, estimate: Estimate | None) -> dict[str, float | None]:
    """Columns of a figure and the ends of its interval."""
    if estimate is None:
        return dict.fromkeys((name, f"{name}_low", f"{name}_high"))
    return {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}


@dataclass(frozen=True)
class PretrainingRow:
    """One pre-training step of a study.

    Attributes:
        step: its name.
        runs: how many were averaged, of all seeds and folds.
        scores: their mean.
    """

    step: str
    runs: int
    scores: PretrainingScores


def pretraining_rows(runs: Sequence[ComparedRun]) -> list[PretrainingRow]:
    """Average the scores of each pre-training that the runs used."""
    found: dict[str, list[PretrainingScores]] = {}
    for record in dict.fromkeys(record for run in runs for record in run.needs):
        if record.pretraining is not None:
            found.setdefault(record.name, []).append(record.pretraining)
    return [PretrainingRow(step, len(scores), _mean(scores)) for step, scores in found.items()]


def _mean(scores: Sequence[PretrainingScores]) -> PretrainingScores:
    def mean(values: Sequence[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return float(np.mean(known)) if len(known) == len(values) else None

    return PretrainingScores(
        val_loss=float(np.mean([each.val_loss for each in scores])),
        val_accuracy=float(np.mean([each.val_accuracy for each in scores])),
        val_loss_unseen_speakers=mean([each.val_loss_unseen_speakers for each in scores]),
        val_accuracy_unseen_speakers=mean([each.val_accuracy_unseen_speakers for each in scores]),
    )


def pretraining_section(rows: Sequence[PretrainingRow]) -> str:
    """Write the page's section."""
    headings = ["pre-training", "runs", "loss", "accuracy", "loss, unseen speakers", "accuracy, unseen speakers"]
    cells = [
        [row.step, str(row.runs), *("-" if value is None else decimal(value) for value in asdict(row.scores).values())]
        for row in rows
    ]
    note = (
        "Of the checkpoint that each pre-training kept: cross-entropy in nats a masked frame, and the share of masked "
        "frames whose cluster is found, on held-out utterances of pre-training speakers, and apart on speakers that it "
        "never heard. Losses compare only where the pseudo-labels are the same."
    )
    return "\n" + "\n\n".join(["## Pre-training", markdown_table(headings, cells), note]) + "\n"


def flat_pretraining(rows: Sequence[PretrainingRow]) -> pd.DataFrame:
    """One line a pre-training step; blank where undefined."""
    import pandas as pd

    return pd.DataFrame({"step": row.step, "runs": row.runs, **asdict(row.scores)} for row in rows)


def show_sets(sets: Sequence[ComparedSet], baseline: str | None, min_utterances: int) -> None:
    """Print a table a test set and attribute; what stands under the scores is the difference to the baseline."""
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    for compared in sets:
        table = Table(title=f"{compared.split}: {compared.attribute}", title_justify="left", box=box.SIMPLE, padding=0)
        for heading in ("recipe", "calibration", "O-CCC", "A-CCC"):
            table.add_column(heading)
        before = None
        for row in compared.rows:
            recipe = escape(row.recipe) if row.recipe != before else ""
            before = row.recipe
            of_row = [(row.overall_ccc, row.overall_gain), (row.average_ccc, row.average_gain)]
            scores = [with_interval(score) + (f"\n{gain(than)}" if baseline else "") for score, than in of_row]
            table.add_row(recipe, row.calibration, *scores, style="dim" if row.is_oracle else None)
        console.print(table)
        under = f" Under each score its difference to {baseline}." if baseline else ""
        console.print(
            f"{compared.speakers} speakers, A-CCC over {compared.counted[min_utterances]}.{under}",
            *refusals(compared),
            *(f"{note}." for note in compared.notes),
            style="dim",
            markup=False,
        )


LEGEND = "recipe, its predictions uncalibrated, with 95 % intervals"
WIDTH, HEIGHT = 4.2, 3.2  # inches, of one plot
_MARKERS = "osD^vP<>X*"
_COLOURS = ("#0a84c6", "#d55e00", "#009e73", "#cc79a7", "#b8860b", "#56b4e9", "#6b4fa0", "#8a8f98")
_METRICS = {"overall_ccc": "O-CCC", "average_ccc": "A-CCC"}


def draw_costs(sets: Sequence[ComparedSet], costs: Sequence[RecipeCost], path: Path) -> bool:
    """Write a PNG with a row a test set and attribute, O-CCC on the left and A-CCC on the right, raw predictions.

    Returns:
        False where nothing could be drawn: no recipe has both a score and a cost.
    """
    from matplotlib.figure import Figure

    seconds = {cost.recipe: cost.training_seconds for cost in costs if cost.training_seconds > 0}
    drawn = [(compared, [row for row in compared.rows if _is_shown(row, seconds)]) for compared in sets]
    drawn = [(compared, rows) for compared, rows in drawn if rows]
    if not drawn:
        return False
    recipes = list(dict.fromkeys(row.recipe for _, rows in drawn for row in rows))
    with style():
        legend = 0.25 * len(recipes) / 4 + 0.6
        figure = Figure(figsize=(2 * WIDTH, HEIGHT * len(drawn) + legend), layout="constrained", dpi=150)
        grid = figure.subplots(len(drawn), 2, squeeze=False, sharex=True)
        for (compared, rows), line in zip(drawn, grid, strict=True):
            for metric, axes in zip(_METRICS, line, strict=True):
                _draw(axes, compared, rows, metric, seconds, recipes)
        for axes in grid[-1]:
            axes.set_xlabel("seconds to train a model, preparation included")
        handles, names = grid[0][0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower left", ncols=4, title=LEGEND, alignment="left")
        figure.savefig(path)
    return True


def _is_shown(row: ComparedRow, seconds: dict[str, float]) -> bool:
    first = row.calibration in {"raw", "ridge"}
    return first and row.recipe in seconds and not np.isnan(row.overall_ccc.value)


def _draw(
    axes: Axes,
    compared: ComparedSet,
    rows: Sequence[ComparedRow],
    metric: str,
    seconds: dict[str, float],
    recipes: Sequence[str],
) -> None:
    from matplotlib.ticker import LogFormatter, LogLocator, NullFormatter

    for row in rows:
        place, estimate = recipes.index(row.recipe), getattr(row, metric)
        colour, marker = _COLOURS[place % len(_COLOURS)], _MARKERS[place % len(_MARKERS)]
        cost = seconds[row.recipe]
        if estimate.refused is None:
            axes.plot([cost, cost], [estimate.low, estimate.high], color=colour, linewidth=1, alpha=0.6)
        axes.plot(
            [cost], [estimate.value], marker, color=colour, markersize=7, markeredgecolor=INK, markeredgewidth=0.5,
            linestyle="none", label=row.recipe,
        )  # fmt: skip
    axes.set_xscale("log")
    # one power of ten can hold all recipes, and would leave the axis without a number
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(LogFormatter(labelOnlyBase=False, minor_thresholds=(np.inf, np.inf)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_title(f"{compared.split}: {compared.attribute}, {_METRICS[metric]}")
    axes.grid(axis="y")
    axes.margins(x=0.12)


METRICS = {"overall_ccc": "O-CCC", "average_ccc": "A-CCC"}
_SIDES = {"dependent": ("speaker-dependent", CALIBRATED, "o"), "independent": ("speaker-independent", RAW, "s")}
_LINES = ("-", "--", ":", "-.")
WIDTH, HEIGHT = 4.0, 2.9  # inches, of one plot


def gap_section(sets: Sequence[GapSet]) -> str:
    """Write the page's section: a table a test set and attribute."""
    parts = [
        "## Personalisation gap",
        "Both sides have the same test speakers, as many training speakers and as many training utterances; the "
        "dependent one has other utterances of the test speakers among them. Predictions are uncalibrated, and the gap "
        "is dependent minus independent over the same draws of the speakers.",
    ]
    headings = ["recipe", "training speakers", "seeds"]
    headings += [f"{name} {what}" for name in METRICS.values() for what in ("independent", "dependent", "gap")]
    for of_set in sets:
        cells = [
            [
                row.recipe,
                str(row.training_speakers),
                str(row.seeds),
                *(cell for name in METRICS for cell in _cells_gap_page(row, name)),
            ]
            for row in of_set.rows
        ]
        counted = f"{of_set.speakers} speakers; A-CCC over {of_set.counted} of them."
        parts += [f"### {of_set.split}: {of_set.attribute}", counted, markdown_table(headings, cells)]
    return "\n" + "\n\n".join(parts) + "\n"


def _cells_gap_page(row: GapRow, metric: str) -> list[str]:
    contrast = getattr(row, metric)
    return [with_interval(contrast.independent), with_interval(contrast.dependent), gain(contrast.gap)]


def flat_gaps(sets: Sequence[GapSet]) -> pd.DataFrame:
    """One line a recipe, number of training speakers, test set and attribute; blank where undefined."""
    import pandas as pd

    return pd.DataFrame(
        {
            "split": of_set.split,
            "attribute": of_set.attribute,
            "recipe": row.recipe,
            "training_speakers": row.training_speakers,
            "seeds": row.seeds,
            "speakers": of_set.speakers,
            "average_ccc_speakers": of_set.counted,
            **{
                name: number
                for metric in METRICS
                for what in ("independent", "dependent", "gap")
                for name, number in numbers(f"{metric}_{what}", getattr(getattr(row, metric), what)).items()
            },
        }
        for of_set in sets
        for row in of_set.rows
    )


def draw_gaps(sets: Sequence[GapSet], path: Path) -> None:
    """Write a PNG with a row a test set and attribute, O-CCC on the left and A-CCC on the right."""
    from matplotlib.figure import Figure

    recipes = list(dict.fromkeys(row.recipe for of_set in sets for row in of_set.rows))
    with style():
        figure = Figure(figsize=(2 * WIDTH, HEIGHT * len(sets) + 0.5), layout="constrained", dpi=150)
        grid = figure.subplots(len(sets), 2, squeeze=False, sharex=True)
        for of_set, line in zip(sets, grid, strict=True):
            for metric, axes in zip(METRICS, line, strict=True):
                _draw_gap_page(axes, of_set, metric, recipes)
        for axes in grid[-1]:
            axes.set_xlabel("training speakers")
        handles, names = grid[0][0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower left", ncols=2, handlelength=3.5)
        figure.savefig(path)


def _draw_gap_page(axes: Axes, of_set: GapSet, metric: str, recipes: Sequence[str]) -> None:
    from matplotlib.ticker import NullFormatter, NullLocator

    for place, recipe in enumerate(recipes):
        rows = [row for row in of_set.rows if row.recipe == recipe]
        numbers_of = [row.training_speakers for row in rows]
        for side, (name, colour, marker) in _SIDES.items():
            estimates = [getattr(getattr(row, metric), side) for row in rows]
            label = name if len(recipes) == 1 else f"{recipe}, {name}"
            axes.plot(
                numbers_of, [each.value for each in estimates], marker=marker, markersize=5, color=colour,
                linestyle=_LINES[place % len(_LINES)], label=label,
            )  # fmt: skip
            if len(recipes) == 1:
                bounds = [each.low for each in estimates], [each.high for each in estimates]
                axes.fill_between(numbers_of, *bounds, color=colour, alpha=0.12, linewidth=0)
    axes.set_xscale("log")
    axes.set_xticks(sorted({row.training_speakers for row in of_set.rows}))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(lambda number, _: f"{number:g}")
    axes.set_title(f"{of_set.split}: {of_set.attribute}, {METRICS[metric]}")
    axes.grid(axis="y")
