"""PAPT and fine-tuning: where the speaker embedding meets the frames, and what each stage learns from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from ink import INKS, Ink, arrow, box, canvas, drawn, path
from matplotlib.patches import Circle, Rectangle

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH, HEIGHT = 9.0, 4.15
MIDDLE = 2.1
FRAMES, MASKED = 12, range(4, 8)


def draw(ink: Ink) -> None:
    """Draw it for one kind of page."""
    with drawn("papt", ink, WIDTH, HEIGHT) as figure:
        axes = canvas(figure, WIDTH, HEIGHT)
        _encoder(axes, ink)
        _speaker(axes, ink)
        _stages(axes, ink)
        _teacher(axes, ink)


def _encoder(axes: Axes, ink: Ink) -> None:
    time = np.linspace(0, 1, 160)
    envelope = np.sin(np.pi * time) ** 0.7 * (0.55 + 0.45 * np.sin(9 * time + 1) ** 2)
    axes.plot(0.1 + 1.1 * time, MIDDLE + 0.36 * envelope * np.sin(95 * time), color=ink.text, linewidth=0.9)
    arrow(axes, (1.25, MIDDLE), (1.5, MIDDLE), ink.text)
    box(axes, 1.5, MIDDLE - 0.4, 0.95, 0.8, "CNN\nfront end", ink.network, ink.network_fill)
    arrow(axes, (2.45, MIDDLE), (2.7, MIDDLE), ink.text)
    width = 1.12 / FRAMES
    for frame in range(FRAMES):
        fill = ink.faint if frame in MASKED else ink.network_fill
        place = (2.72 + frame * width + 0.012, MIDDLE - 0.33)
        axes.add_patch(Rectangle(place, width - 0.024, 0.66, facecolor=fill, edgecolor=ink.network, linewidth=0.7))
    axes.text(3.28, MIDDLE - 0.4, "masked spans, in PAPT only", ha="center", va="top", color=ink.faint, fontsize=8)
    arrow(axes, (3.86, MIDDLE), (4.1, MIDDLE), ink.text)
    box(axes, 4.1, MIDDLE - 0.4, 1.1, 0.8, "Transformer", ink.network, ink.network_fill)
    arrow(axes, (5.2, MIDDLE), (5.5, MIDDLE), ink.text)


def _speaker(axes: Axes, ink: Ink) -> None:
    level = 0.6
    axes.text(0.65, level, "who speaks", ha="center", va="center")
    arrow(axes, (1.15, level), (2.3, level), ink.speaker)
    box(axes, 2.3, level - 0.31, 1.5, 0.62, "speaker table,\na row a speaker", ink.speaker, ink.speaker_fill)
    arrow(axes, (3.8, level), (4.1, level), ink.speaker)
    box(axes, 4.1, level - 0.31, 0.75, 0.62, "FC", ink.speaker, ink.speaker_fill)
    path(axes, [(4.85, level), (5.63, level), (5.63, MIDDLE - 0.13)], ink.speaker)
    axes.text(5.76, level, "$e_s$, added to every frame", color=ink.speaker, va="center")
    axes.add_patch(Circle((5.63, MIDDLE), 0.13, facecolor=ink.speaker_fill, edgecolor=ink.speaker, linewidth=1.2))
    for run, rise in ((0.07, 0), (0, 0.07)):
        axes.plot([5.63 - run, 5.63 + run], [MIDDLE - rise, MIDDLE + rise], color=ink.speaker, linewidth=1.4)


def _stages(axes: Axes, ink: Ink) -> None:
    titles = ("1   PAPT: audio alone", "2   Fine-tuning: emotion labels")
    heads = ("prediction\nhead", "mean pool,\ninterpreter")
    goals = ("cluster of each\nmasked frame", "arousal,\nvalence, ...")
    for level, title, head, goal in zip((2.9, 1.5), titles, heads, goals, strict=True):
        path(axes, [(5.76, MIDDLE), (6.05, MIDDLE), (6.05, level), (6.35, level)], ink.text)
        box(axes, 6.35, level - 0.33, 1.05, 0.66, head, ink.network, ink.network_fill)
        arrow(axes, (7.4, level), (7.65, level), ink.text)
        box(axes, 7.65, level - 0.33, 1.25, 0.66, goal, ink.label, ink.label_fill)
        axes.text(6.35, level + 0.4, title, va="bottom", fontweight="bold")


def _teacher(axes: Axes, ink: Ink) -> None:
    level = 3.83
    path(axes, [(0.65, MIDDLE + 0.45), (0.65, level), (1.5, level)], ink.faint, dashed=True)
    box(axes, 1.5, level - 0.25, 1.75, 0.5, "teacher and k-means", ink.faint, "none", dashed=True)
    path(axes, [(3.25, level), (8.6, level), (8.6, 3.23)], ink.faint, dashed=True)
    words = "pseudo-labels, made once for all frames"
    axes.text(3.4, level + 0.07, words, color=ink.faint, va="bottom", fontsize=8)


if __name__ == "__main__":
    for each in INKS:
        draw(each)
