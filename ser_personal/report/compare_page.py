"""The comparison as a page of Markdown, as flat tables, on the screen, and as figures."""

from __future__ import annotations

from dataclasses import asdict
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np

from ser_personal.files import atomic_write
from ser_personal.report.figures import CALIBRATED, INK, RAW, style
from ser_personal.report.formatting import decimal, duration, gain, operations, with_interval

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import pandas as pd
    from matplotlib.axes import Axes

    from ser_personal.report.bootstrap import Bootstrap, Estimate
    from ser_personal.report.compare import ComparedRow, ComparedSet, GapRow
    from ser_personal.report.runs import PretrainingRow, RecipeCost, RecipeStage

METRICS = {"overall_ccc": "O-CCC", "average_ccc": "A-CCC"}
SIDES = ("independent", "dependent", "gap")
READ_TOTALS = (
    "Cost of training one model from the corpus, shared steps included: the mean over a recipe's runs. Operations are "
    "those of the steps that count them."
)
READ_STAGES = (
    "Peak memory is that of the largest run. Audio is counted each time it passes through the model. Floating-point "
    "operations are counted on one batch and scaled by audio. Shared steps serve several recipes, and are listed with "
    "each that needs them. A dash means: not measured."
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
SOURCE = (
    "Tran, Yin and Soleymani (Interspeech 2023), MSP-Podcast v1.6, test-b: 8,434 utterances of 50 speakers, "
    "HuBERT-large. A paired difference would need the paper's predictions on the same test set."
)
# attribute -> system -> O-CCC and A-CCC
PAPER = {
    "arousal": {
        "Vanilla-FT": (0.712, 0.512),
        "B2, data weighting": (0.735, 0.517),
        "TAPT-FT": (0.717, 0.518),
        "PAPT-FT": (0.740, 0.531),
        "PAPT-FT, mu": (0.722, 0.528),
        "PAPT-FT, sigma": (0.732, 0.541),
        "PAPT-FT, both": (0.713, 0.540),
    },
    "valence": {
        "Vanilla-FT": (0.607, 0.514),
        "B2, data weighting": (0.650, 0.569),
        "TAPT-FT": (0.630, 0.542),
        "PAPT-FT": (0.663, 0.569),
        "PAPT-FT, mu": (0.660, 0.566),
        "PAPT-FT, sigma": (0.662, 0.578),
        "PAPT-FT, both": (0.657, 0.575),
    },
}


def page(
    sets: Sequence[ComparedSet],
    costs: Sequence[RecipeCost],
    pretrained: Sequence[PretrainingRow],
    baseline: str | None,
    bootstrap: Bootstrap,
    min_utterances: int,
    *,
    paper: bool,
) -> str:
    """Write the page: a section for each test set and attribute, then costs, pre-training and gaps."""
    against = f" Differences are to {baseline}, over the same draws." if baseline else ""
    parts = [
        "# Comparison",
        f"O-CCC is one CCC over all utterances, A-CCC the mean of speakers' own, over those with at least "
        f"{min_utterances} utterances. In brackets 95 % intervals from {bootstrap.resamples} draws of the test "
        "speakers, the same draws for every row, each speaker's CCC averaged over seeds first; they say how far other "
        f"speakers could change a figure, not other seeds.{against} An oracle reads test labels and is never a result.",
    ]
    for compared in sets:
        parts += _section(compared, min_utterances, with_gains=baseline is not None)
        if paper and compared.attribute in PAPER:
            scores = [[system, *map(decimal, pair)] for system, pair in PAPER[compared.attribute].items()]
            parts += [f"### The paper's {compared.attribute}", _table(["system", "O-CCC", "A-CCC"], scores), SOURCE]
    parts += _costs(costs)
    if pretrained:
        headings = ["pre-training", "runs", "loss", "accuracy", "loss, unseen speakers", "accuracy, unseen speakers"]
        rows = [
            [of.step, str(of.runs), *(_or_dash(each, decimal) for each in asdict(of.scores).values())]
            for of in pretrained
        ]
        parts += ["## Pre-training", _table(headings, rows), READ_PRETRAINING]
    return "\n\n".join([*parts, *_gaps(sets, min_utterances)]) + "\n"


def _section(compared: ComparedSet, min_utterances: int, *, with_gains: bool) -> list[str]:
    gains = ["O-CCC difference", "A-CCC difference"] if with_gains else []
    recipes: dict[str, list[ComparedRow]] = {}
    for row in compared.rows:
        recipes.setdefault(row.recipe, []).append(row)
    notes = [*refusals(compared), *(f"{note}." for note in compared.notes)]
    raw = [[rows[0].recipe, *_figures(rows[0], with_gains=with_gains)] for rows in recipes.values()]
    parts = [
        f"## {compared.split}: {compared.attribute}",
        " ".join([f"{compared.speakers} speakers; A-CCC over {compared.counted[min_utterances]} of them.", *notes]),
        _table(["recipe, uncalibrated", "seeds", "O-CCC", "A-CCC", *gains], raw),
    ]
    calibrated = {recipe: {_name(row): row for row in rows} for recipe, rows in recipes.items() if len(rows) > 1}
    if calibrated:
        names = list(dict.fromkeys(name for of_recipe in calibrated.values() for name in of_recipe))
        matrix = [
            [recipe, *(_both(of_recipe[name]) if name in of_recipe else "-" for name in names)]
            for recipe, of_recipe in calibrated.items()
        ]
        every = [[row.recipe, _name(row), *_figures(row, with_gains=with_gains)] for row in compared.rows]
        parts += [_table(["O-CCC / A-CCC", *names], matrix), "Each of them with its intervals:"]
        parts.append(_table(["recipe", "calibration", "seeds", "O-CCC", "A-CCC", *gains], every))
    least = sorted(compared.counted)
    numbers = ", ".join(f"{compared.counted[each]} have at least {each} utterances" for each in least)
    sensitivity = [
        [row.recipe, _name(row), *(decimal(row.sensitivity[each]) for each in least)] for row in compared.rows
    ]
    headings = ["recipe", "calibration", *(f"at least {each}" for each in least)]
    return [
        *parts,
        f"A-CCC by the utterances that a speaker must have; of the speakers {numbers}:",
        _table(headings, sensitivity),
    ]


def _name(row: ComparedRow) -> str:
    return row.calibration + (" (oracle)" if row.is_oracle else "")


def _both(row: ComparedRow) -> str:
    return f"{decimal(row.overall_ccc.value)} / {decimal(row.average_ccc.value)}"


def _figures(row: ComparedRow, *, with_gains: bool) -> list[str]:
    gains = [gain(row.overall_gain), gain(row.average_gain)] if with_gains else []
    return [str(row.seeds), with_interval(row.overall_ccc), with_interval(row.average_ccc), *gains]


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    # a | would end the cell
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)


def _or_dash(value: Any, formatted: Callable[[Any], str]) -> str:
    return "-" if value is None else formatted(value)


def refusals(compared: ComparedSet) -> list[str]:
    """Reasons why scores of a set have no interval, each once."""
    estimates = [estimate for row in compared.rows for estimate in (row.overall_ccc, row.average_ccc)]
    return [f"No interval: {reason}." for reason in dict.fromkeys(each.refused for each in estimates) if reason]


def _costs(costs: Sequence[RecipeCost]) -> list[str]:
    if not costs:
        return []
    totals = [
        [
            cost.recipe,
            duration(cost.training_seconds),
            _or_dash(cost.training_cpu_seconds, duration),
            _or_dash(cost.training_flops, operations),
        ]
        for cost in costs
        if cost.training_seconds
    ]
    headings = ["recipe", "stage", "trained parameters", "time", "CPU time", "audio", "operations", "peak memory"]
    stages = _table(headings, [[cost.recipe, *_stage(stage)] for cost in costs for stage in cost.stages])
    trained = [_table(["training", "time", "CPU time", "operations"], totals), READ_TOTALS] if totals else []
    return ["## Cost", *trained, stages, READ_STAGES]


def _stage(stage: RecipeStage) -> list[str]:
    cost = stage.cost
    return [
        stage.name + (" (shared)" if stage.is_shared else ""),
        _or_dash(cost.trained_parameters, "{:,}".format),
        duration(cost.seconds),
        _or_dash(cost.cpu_seconds, duration),
        _or_dash(cost.speech_seconds, duration),
        _or_dash(cost.flops, operations),
        _or_dash(cost.peak_memory, lambda size: f"{size / 2**30:.2f} GiB"),
    ]


def _gaps(sets: Sequence[ComparedSet], min_utterances: int) -> list[str]:
    with_gap = [compared for compared in sets if compared.gaps]
    parts = ["## Personalisation gap", READ_GAP] if with_gap else []
    headings = ["recipe", "training speakers", "seeds"]
    headings += [f"{name} {what}" for name in METRICS.values() for what in SIDES]

    def cells(row: GapRow) -> list[str]:
        scores = [getattr(row, metric) for metric in METRICS]
        sides = [[with_interval(of["independent"]), with_interval(of["dependent"]), gain(of["gap"])] for of in scores]
        return [row.recipe, str(row.training_speakers), str(row.seeds), *sides[0], *sides[1]]

    for compared in with_gap:
        counted = f"{compared.speakers} speakers; A-CCC over {compared.counted[min_utterances]} of them."
        table = _table(headings, [cells(row) for row in compared.gaps])
        parts += [f"### {compared.split}: {compared.attribute}", counted, table]
    return parts


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
            **_numbers({"overall_ccc": row.overall_ccc, "average_ccc": row.average_ccc}),
            **_numbers({"overall_ccc_difference": row.overall_gain, "average_ccc_difference": row.average_gain}),
            **{f"average_ccc_from_{least}_utterances": value for least, value in row.sensitivity.items()},
            **{f"speakers_from_{least}_utterances": number for least, number in compared.counted.items()},
            "training_seconds": seconds.get(row.recipe),
        }
        for compared in sets
        for row in compared.rows
    ]
    if paper:
        lines += [
            {"split": "paper, test-b", "attribute": attribute, "recipe": system, "is_oracle": False}
            | {"overall_ccc": overall, "average_ccc": average}
            for attribute, systems in PAPER.items()
            for system, (overall, average) in systems.items()
        ]
    return pd.DataFrame(lines)


def flat_pretraining(rows: Sequence[PretrainingRow]) -> pd.DataFrame:
    """One line a pre-training step; blank where undefined."""
    import pandas as pd

    return pd.DataFrame({"step": row.step, "runs": row.runs, **asdict(row.scores)} for row in rows)


def flat_gaps(sets: Sequence[ComparedSet], min_utterances: int) -> pd.DataFrame:
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
            "average_ccc_speakers": compared.counted[min_utterances],
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


def show_sets(sets: Sequence[ComparedSet], baseline: str | None, min_utterances: int) -> None:
    """Print a table for each test set and attribute, with differences to the baseline under the scores."""
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


_WIDTH, _HEIGHT = 4.1, 3.1  # inches, of one plot
_MARKERS = "osD^vP<>X*"
_COLOURS = ("#0a84c6", "#d55e00", "#009e73", "#cc79a7", "#b8860b", "#56b4e9", "#6b4fa0", "#8a8f98")
_SIDES = {"dependent": ("speaker-dependent", CALIBRATED, "o"), "independent": ("speaker-independent", RAW, "s")}
_LINES = ("-", "--", ":", "-.")


def _draw_grid(
    sets: Sequence[ComparedSet],
    draw: Callable[[Axes, ComparedSet, str], None],
    path: Path,
    xlabel: str,
    entries: Sequence[str],
    **legend: Any,
) -> None:
    """Write a PNG with a row for each test set and attribute, O-CCC on the left and A-CCC on the right."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter

    columns = 4 if max(map(len, entries)) <= 20 else 2
    with style():
        height = _HEIGHT * len(sets) + 0.6 + 0.25 * len(entries) / columns
        figure = Figure(figsize=(2 * _WIDTH, height), layout="constrained", dpi=150)
        grid = figure.subplots(len(sets), 2, squeeze=False, sharex=True)
        for compared, line in zip(sets, grid, strict=True):
            for metric, axes in zip(METRICS, line, strict=True):
                axes.set_xscale("log")
                draw(axes, compared, metric)
                axes.xaxis.set_minor_formatter(NullFormatter())
                axes.set_title(f"{compared.split}: {compared.attribute}, {METRICS[metric]}")
                axes.grid(axis="y")
        for axes in grid[-1]:
            axes.set_xlabel(xlabel)
        figure.legend(*grid[0][0].get_legend_handles_labels(), loc="outside lower left", ncols=columns, **legend)
        content = BytesIO()
        figure.savefig(content)
    atomic_write(path, content.getvalue())


def draw_costs(sets: Sequence[ComparedSet], costs: Sequence[RecipeCost], path: Path) -> bool:
    """Draw the uncalibrated scores of each recipe by training time; False where no recipe has both."""
    from matplotlib.ticker import LogFormatter, LogLocator

    seconds = {cost.recipe: cost.training_seconds for cost in costs if cost.training_seconds > 0}

    def shown(compared: ComparedSet) -> list[ComparedRow]:
        raw = [row for row in compared.rows if row.calibration in {"raw", "ridge"} and row.recipe in seconds]
        return [row for row in raw if not np.isnan(row.overall_ccc.value)]

    drawn = [compared for compared in sets if shown(compared)]
    recipes = list(dict.fromkeys(row.recipe for compared in drawn for row in shown(compared)))

    def draw(axes: Axes, compared: ComparedSet, metric: str) -> None:
        for row in shown(compared):
            place, estimate, cost = recipes.index(row.recipe), getattr(row, metric), seconds[row.recipe]
            colour, marker = _COLOURS[place % len(_COLOURS)], _MARKERS[place % len(_MARKERS)]
            if estimate.refused is None:
                axes.plot([cost, cost], [estimate.low, estimate.high], color=colour, linewidth=1, alpha=0.6)
            edge: dict[str, Any] = {
                "markersize": 7,
                "markeredgecolor": INK,
                "markeredgewidth": 0.5,
                "linestyle": "none",
            }
            axes.plot([cost], [estimate.value], marker, color=colour, label=row.recipe, **edge)
        # ticks within a power of ten, or an axis shorter than that would have none
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(LogFormatter(labelOnlyBase=False, minor_thresholds=(np.inf, np.inf)))
        axes.margins(x=0.12)

    if drawn:
        title = "recipe, its predictions uncalibrated, with 95 % intervals"
        xlabel = "seconds to train a model, preparation included"
        _draw_grid(drawn, draw, path, xlabel, recipes, title=title, alignment="left")
    return bool(drawn)


def draw_gaps(sets: Sequence[ComparedSet], path: Path) -> bool:
    """Draw both sides of the personalisation gap by number of training speakers; False where there is no gap."""
    from matplotlib.ticker import NullLocator

    drawn = [compared for compared in sets if compared.gaps]
    recipes = list(dict.fromkeys(row.recipe for compared in drawn for row in compared.gaps))

    def draw(axes: Axes, compared: ComparedSet, metric: str) -> None:
        for recipe, line in zip(recipes, _LINES * len(recipes), strict=False):
            rows = [row for row in compared.gaps if row.recipe == recipe]
            numbers = [row.training_speakers for row in rows]
            for side, (name, colour, marker) in _SIDES.items():
                estimates = [getattr(row, metric)[side] for row in rows]
                label = name if len(recipes) == 1 else f"{recipe}, {name}"
                values = [each.value for each in estimates]
                axes.plot(numbers, values, marker=marker, markersize=5, color=colour, linestyle=line, label=label)
                if len(recipes) == 1:
                    bounds = [each.low for each in estimates], [each.high for each in estimates]
                    axes.fill_between(numbers, *bounds, color=colour, alpha=0.12, linewidth=0)
        axes.set_xticks(sorted({row.training_speakers for row in compared.gaps}))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(lambda number, _: f"{number:g}")

    if drawn:
        names = [f"{recipe}, {name}" for recipe in recipes for name, *_ in _SIDES.values()]
        _draw_grid(drawn, draw, path, "training speakers", names, handlelength=3.5)
    return bool(drawn)
