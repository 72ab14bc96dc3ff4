"""The figures of a comparison: a forest plot of its table, scores by cost, and the personalisation gap."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from ser_personal.comparison.compare_page import METRICS, row_label, summary
from ser_personal.files import atomic_write
from ser_personal.report.figures import CALIBRATED, INK, RAW, style

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

    from ser_personal.comparison.compare import ComparedRow, ComparedSet
    from ser_personal.comparison.runs import RecipeCost
    from ser_personal.report.bootstrap import Estimate


def draw_forest(sets: Sequence[ComparedSet], baseline: str | None, path: Path) -> None:
    """Draw what each row of the one table gains in A-CCC over the baseline, the greatest gain first."""
    from matplotlib.figure import Figure

    shown = [
        (compared, sorted((row for row in summary(compared) if row.average_gain), key=_by_gain)) for compared in sets
    ]
    heights = [1.0 + 0.3 * max(len(rows), 1) for _, rows in shown]
    with style():
        figure = Figure(figsize=(6.5, sum(heights)), layout="constrained", dpi=150)
        panels = figure.subplots(len(shown), 1, squeeze=False, height_ratios=heights)[:, 0]
        for axes, (compared, rows) in zip(panels, shown, strict=True):
            axes.axvline(0, color=INK, linewidth=0.8, linestyle=":")
            for y, row in enumerate(rows):
                estimate = cast("Estimate", row.average_gain)
                colour = CALIBRATED if row.calibration == "sigma" else RAW
                if estimate.refused is None:
                    axes.plot([estimate.low, estimate.high], [y, y], color=colour)
                axes.plot([estimate.value], [y], "o", color=colour, markersize=6)
            axes.set_yticks(range(len(rows)), [row_label(row) for row in rows])
            axes.set_ylim(max(len(rows), 1) - 0.4, -0.6)
            axes.set_title(f"{compared.split}: {compared.attribute}")
            axes.grid(axis="x")
        panels[-1].set_xlabel(f"A-CCC minus that of {baseline}, 95 % intervals over speakers")
        content = BytesIO()
        figure.savefig(content)
    atomic_write(path, content.getvalue())


def _by_gain(row: ComparedRow) -> float:
    value = cast("Estimate", row.average_gain).value
    return np.inf if np.isnan(value) else -value


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
            index, estimate, cost = recipes.index(row.recipe), getattr(row, metric), seconds[row.recipe]
            colour, marker = _COLOURS[index % len(_COLOURS)], _MARKERS[index % len(_MARKERS)]
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
