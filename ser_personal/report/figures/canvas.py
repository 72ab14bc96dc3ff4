"""What all figures share: size, colours, and the way into a page.

Figures are drawn as wide as a phone, so that text keeps its size there, and several stand side by side on a desk. Text
and axes take the page's text colour, so that they are readable in light and in dark.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from io import StringIO
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 4.0  # inches
INK = "#1b2127"

# Okabe and Ito's colours, told apart by colour-blind people and on both backgrounds.
RAW = "#d55e00"
CALIBRATED = "#0a84c6"
LABELS = "#8a8f98"
EXTRA = ("#0a84c6", "#d55e00", "#009e73", "#cc79a7", "#b8860b", "#56b4e9")

_STYLE: dict[Any, Any] = {
    "font.size": 9.5,
    "font.family": "sans-serif",
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.axisbelow": True,
    "grid.color": INK,
    "grid.alpha": 0.15,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.8,
    "svg.fonttype": "none",
    "svg.hashsalt": "ser_personal",
}


@dataclass(frozen=True, eq=False)
class Drawing:
    """A figure and its words.

    Attributes:
        name: for TensorBoard, such as `test1/dumbbells/arousal`.
        alt: what it shows, for who can't see it.
        figure: the drawing.
    """

    name: str
    alt: str
    figure: Figure


def style() -> AbstractContextManager[None]:
    """The settings that everything has to be drawn and saved under; matplotlib's own come back after it."""
    from matplotlib import rc_context

    return rc_context(_STYLE)


def blank(height: float, rows: int = 1) -> tuple[Figure, Sequence[Axes]]:
    """Make a figure of phone width and that height, inches, with so many plots below each other."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, list(figure.subplots(rows, 1, squeeze=False)[:, 0])


def legend_above(axes: Axes, columns: int) -> None:
    """Put the legend over the plot, where it covers nothing."""
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=columns, borderaxespad=0.2, handlelength=1.4)


def as_svg(drawing: Drawing) -> str:
    """The figure for a page: no prologue, no link, and its ink in the page's text colour."""
    text = StringIO()
    drawing.figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' xmlns(:xlink)?="[^"]*"', "", svg).replace("xlink:href", "href")
    opening, _, rest = svg.partition(">")
    svg = re.sub(r' (width|height)="[^"]*"', "", opening) + ">" + rest
    svg = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", svg)
    return svg.replace(INK, "currentColor")
