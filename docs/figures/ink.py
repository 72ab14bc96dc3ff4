"""Colours and strokes that the concept figures share, for a light page and for a dark one."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FOLDER = Path(__file__).parent
DASHES = (0, (3, 2))


@dataclass(frozen=True)
class Ink:
    """Colours of one figure on one kind of page.

    Attributes:
        page: `light` or `dark`.
        text: words and arrows.
        faint: lines and words that stand back.
        speaker: all that a speaker embedding or one speaker is.
        speaker_fill: a quiet ground of it.
        network: what the network is.
        network_fill: a quiet ground of it.
        label: what labels and losses are.
        label_fill: a quiet ground of it.
    """

    page: str
    text: str
    faint: str
    speaker: str
    speaker_fill: str
    network: str
    network_fill: str
    label: str
    label_fill: str


INKS = (
    Ink("light", "#24292f", "#8a939d", "#b4530a", "#fdeedd", "#0b7a75", "#e1f3f1", "#3b5bab", "#e8edf9"),
    Ink("dark", "#e4e6eb", "#8b93a1", "#f2a35e", "#46311f", "#5fc7bf", "#173b3c", "#93b1f5", "#27345a"),
)


@contextmanager
def drawn(name: str, ink: Ink, width: float, height: float) -> Iterator[Figure]:
    """A figure of that many inches, written to NAME-light.svg or NAME-dark.svg, the same bytes each time."""
    style = {
        "font.family": "DejaVu Sans",
        "font.size": 9,
        "text.color": ink.text,
        "axes.edgecolor": ink.faint,
        "axes.labelcolor": ink.text,
        "xtick.color": ink.faint,
        "ytick.color": ink.faint,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "svg.hashsalt": name,
        "svg.fonttype": "path",
        "mathtext.fontset": "dejavusans",
    }
    with mpl.rc_context(style):
        figure = plt.figure(figsize=(width, height))
        yield figure
        figure.savefig(FOLDER / f"{name}-{ink.page}.svg", transparent=True, metadata={"Date": None, "Creator": None})
        plt.close(figure)


def canvas(figure: Figure, width: float, height: float) -> Axes:
    """Axes over the whole figure in which a unit is an inch."""
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(0, height))
    axes.axis("off")
    return axes


def box(
    axes: Axes,
    x: float,
    y: float,
    width: float,
    height: float,
    words: str,
    edge: str,
    fill: str,
    *,
    dashed: bool = False,
) -> None:
    """A rounded box with words in its middle; x and y are its lower left corner."""
    axes.add_patch(
        FancyBboxPatch(
            (x, y),
            width,
            height,
            boxstyle="round,pad=0,rounding_size=0.06",
            facecolor=fill,
            edgecolor=edge,
            linewidth=1.2,
            linestyle=DASHES if dashed else "solid",
        )
    )
    axes.text(x + width / 2, y + height / 2, words, ha="center", va="center", linespacing=1.35)


def arrow(
    axes: Axes, start: tuple[float, float], end: tuple[float, float], color: str, *, dashed: bool = False
) -> None:
    """An arrow from point to point."""
    axes.add_patch(
        FancyArrowPatch(
            start,
            end,
            arrowstyle="-|>,head_length=4,head_width=2.2",
            color=color,
            linewidth=1.2,
            linestyle=DASHES if dashed else "solid",
            shrinkA=0,
            shrinkB=0,
        )
    )


def path(axes: Axes, points: Sequence[tuple[float, float]], color: str, *, dashed: bool = False) -> None:
    """An arrow along several points."""
    *line, end = points
    style = DASHES if dashed else "solid"
    axes.plot(*zip(*line, strict=True), color=color, linewidth=1.2, linestyle=style, solid_joinstyle="round")
    arrow(axes, line[-1], end, color, dashed=dashed)
