"""Which audio and which labels of a speaker each stage may see, in the splits and in the four conditions of a test."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ink import INKS, Ink, canvas, drawn
from matplotlib.patches import FancyBboxPatch

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH, HEIGHT = 9.0, 3.85
LEFT, RIGHT = 1.85, 8.9
# share of the speaker's audio, what is done with it
ROWS = {
    "train": [(1.0, "both")],
    "validation": [(1.0, "choice")],
    "labelled": [(0.6, "both"), (0.4, "test")],
    "adaptation": [(0.35, "audio"), (0.65, "test")],
    "transductive": [(1.0, "audio and test")],
    "unseen": [(1.0, "test")],
}
WORDS = {
    "both": "PAPT, then fine-tuning with labels, then the bank",
    "choice": "chooses the checkpoint; fits controls and intervals",
    "audio": "PAPT, audio alone",
    "audio and test": "PAPT, audio alone, and then tested",
    "test": "tested",
}
SHORT = {("labelled", "both"): "PAPT, labels, bank"}
LEVELS = {"train": 3.3, "validation": 2.82, "labelled": 2.0, "adaptation": 1.52, "transductive": 1.04, "unseen": 0.56}


def draw(ink: Ink) -> None:
    """Draw it for one kind of page."""
    with drawn("splits", ink, WIDTH, HEIGHT) as figure:
        axes = canvas(figure, WIDTH, HEIGHT)
        axes.text(0.1, 3.68, "Speakers by split", fontweight="bold", va="center")
        axes.text(0.1, 2.38, "A test speaker's condition", fontweight="bold", va="center")
        for name, level in LEVELS.items():
            axes.text(LEFT - 0.15, level, name, ha="right", va="center", family="DejaVu Sans Mono", fontsize=8.5)
            _bar(axes, ink, name, level)
        axes.annotate("", (RIGHT, 0.2), (LEFT, 0.2), arrowprops={"arrowstyle": "->", "color": ink.faint})
        axes.text(LEFT - 0.15, 0.2, "one speaker's recordings", color=ink.faint, ha="right", va="center", fontsize=8)


def _bar(axes: Axes, ink: Ink, name: str, level: float) -> None:
    looks = {
        "both": (ink.label, ink.label_fill),
        "choice": (ink.faint, "none"),
        "audio": (ink.network, ink.network_fill),
        "audio and test": (ink.speaker, ink.network_fill),
        "test": (ink.speaker, ink.speaker_fill),
    }
    start = LEFT
    for share, use in ROWS[name]:
        width = share * (RIGHT - LEFT)
        edge, fill = looks[use]
        axes.add_patch(
            FancyBboxPatch(
                (start + 0.02, level - 0.18),
                width - 0.04,
                0.36,
                boxstyle="round,pad=0,rounding_size=0.05",
                facecolor=fill,
                edgecolor=edge,
                linewidth=1.2,
                linestyle=(0, (3, 2)) if use == "choice" else "solid",
            )
        )
        words = SHORT.get((name, use), WORDS[use])
        axes.text(start + width / 2, level, words, ha="center", va="center", fontsize=8.5)
        start += width


if __name__ == "__main__":
    for each in INKS:
        draw(each)
