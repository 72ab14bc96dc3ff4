"""The personalisation gap as Markdown, as a table, and as a plot over the number of training speakers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ser_personal.report.comparison.cells import gain, markdown_table, with_interval
from ser_personal.report.comparison.markdown import numbers
from ser_personal.report.figures.canvas import CALIBRATED, RAW, style

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import pandas as pd
    from matplotlib.axes import Axes

    from ser_personal.report.comparison.gap import GapRow, GapSet

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
                *(cell for name in METRICS for cell in _cells(row, name)),
            ]
            for row in of_set.rows
        ]
        counted = f"{of_set.speakers} speakers; A-CCC over {of_set.counted} of them."
        parts += [f"### {of_set.split}: {of_set.attribute}", counted, markdown_table(headings, cells)]
    return "\n" + "\n\n".join(parts) + "\n"


def _cells(row: GapRow, metric: str) -> list[str]:
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
                _draw(axes, of_set, metric, recipes)
        for axes in grid[-1]:
            axes.set_xlabel("training speakers")
        handles, names = grid[0][0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower left", ncols=2, handlelength=3.5)
        figure.savefig(path)


def _draw(axes: Axes, of_set: GapSet, metric: str, recipes: Sequence[str]) -> None:
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
