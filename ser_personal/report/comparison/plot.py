"""Accuracy against cost: a point a recipe, its predictions uncalibrated."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ser_personal.report.figures.canvas import INK, style

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

    from ser_personal.report.comparison.compare_systems import ComparedRow, ComparedSet
    from ser_personal.report.comparison.recipe_cost import RecipeCost

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
