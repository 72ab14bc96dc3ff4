"""PLDC on one invented speaker, calibrated by `ser_personal.calibrate` itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from ink import INKS, Ink, drawn
from matplotlib.patches import Wedge

from ser_personal import SpeakerBank, calibrate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from ser_personal.calibration.pldc import Calibration

WIDTH, HEIGHT = 9.0, 3.2
K = 3
# direction of the speaker vector in degrees, its length, label mean, label deviation
TRAINING = {
    "a": (14, 0.85, 3.3, 0.70),
    "b": (28, 0.60, 3.9, 0.60),
    "c": (50, 0.80, 4.9, 1.15),
    "d": (57, 0.58, 4.6, 0.95),
    "e": (68, 0.88, 5.2, 1.05),
    "f": (86, 0.70, 4.0, 0.75),
}
TESTED = (59, 0.95)
RAW = np.array([3.55, 3.72, 3.8, 3.93, 4.02, 4.1, 4.31, 4.47])


def draw(ink: Ink) -> None:
    """Draw it for one kind of page."""
    labels = np.array([(mean - std, mean + std) for *_, mean, std in TRAINING.values()]).reshape(-1, 1)
    vectors = np.repeat([_point(degrees, length) for degrees, length, *_ in TRAINING.values()], 2, axis=0)
    bank = SpeakerBank.from_utterances(np.repeat(list(TRAINING), 2).tolist(), vectors, labels, ["arousal"])
    tested = (RAW[:, None], ["test"] * len(RAW), np.tile(_point(*TESTED), (len(RAW), 1)), bank)
    scaled = calibrate(*tested, k=K)
    moved = calibrate(*tested, k=K, shift_mean=True)
    with drawn("pldc", ink, WIDTH, HEIGHT) as figure:
        margins = {"left": 0.01, "right": 0.985, "bottom": 0.15, "top": 0.9, "wspace": 0.1}
        voices, neighbours, predictions = figure.subplots(1, 3, width_ratios=(1.02, 1.1, 1.5), gridspec_kw=margins)
        _voices(voices, ink, scaled)
        _neighbours(neighbours, ink, scaled)
        _predictions(predictions, ink, scaled.predictions[:, 0], moved.predictions[:, 0])


def _point(degrees: float, length: float) -> tuple[float, float]:
    return length * np.cos(np.radians(degrees)), length * np.sin(np.radians(degrees))


def _voices(axes: Axes, ink: Ink, calibration: Calibration) -> None:
    nearest = calibration.speakers[0].neighbours
    axes.set_title("1   who sounds alike", loc="left", fontsize=9, fontweight="bold")
    angles = [TRAINING[name][0] for name in nearest]
    axes.add_patch(Wedge((0, 0), 1.08, min(angles) - 3, max(angles) + 3, facecolor=ink.label_fill, edgecolor="none"))
    for name, (degrees, length, *_) in TRAINING.items():
        color = ink.label if name in nearest else ink.faint
        x, y = _point(degrees, length)
        axes.plot([0, x], [0, y], color=color, linewidth=0.9)
        axes.plot(x, y, "o", color=color, markersize=5)
    x, y = _point(*TESTED)
    axes.plot([0, x], [0, y], color=ink.speaker, linewidth=1.4)
    axes.plot(x, y, "*", color=ink.speaker, markersize=12)
    axes.text(x - 0.03, y + 0.09, "test speaker", color=ink.speaker, ha="center", va="bottom", fontsize=8)
    axes.text(0.97, 0.02, "training speakers", color=ink.faint, ha="right", va="bottom", fontsize=8)
    axes.set(xlim=(-0.02, 1.12), ylim=(-0.02, 1.12), aspect="equal", xticks=[], yticks=[])
    axes.set_anchor("NW")
    axes.set_xlabel("speaker vectors, by cosine", loc="left", fontsize=8, color=ink.faint)
    axes.spines[["left", "bottom"]].set_visible(False)


def _neighbours(axes: Axes, ink: Ink, calibration: Calibration) -> None:
    speaker = calibration.speakers[0]
    axes.set_title(f"2   the labels of those {K}", loc="left", fontsize=9, fontweight="bold")
    scale = np.linspace(1, 7, 300)
    for name in speaker.neighbours:
        *_, mean, std = TRAINING[name]
        axes.plot(scale, _bell(scale, mean, std), color=ink.label, linewidth=0.9, alpha=0.65)
    mean, std = speaker.mu_bar[0], speaker.sigma_bar[0]
    together = _bell(scale, mean, std)
    axes.fill_between(scale, together, color=ink.label_fill, zorder=0)
    axes.plot(scale, together, color=ink.label, linewidth=2)
    height = _bell(mean + std, mean, std)
    axes.plot([mean, mean], [0, together.max()], color=ink.label, linewidth=1, linestyle=(0, (3, 2)))
    axes.annotate("", (mean, height), (mean + std, height), arrowprops={"arrowstyle": "<->", "color": ink.label})
    axes.text(mean + std / 2, height + 0.008, r"$\bar\sigma$", color=ink.text, ha="center", va="bottom")
    axes.text(mean, -0.012, r"$\bar\mu$", color=ink.text, ha="center", va="top")
    axes.set(xlim=(1, 7), ylim=(0, 0.5), yticks=[], xticks=[1, 2, 3, 4, 6, 7])
    axes.tick_params(labelsize=8)
    axes.set_xlabel("labelled arousal", loc="left", fontsize=8, color=ink.faint)
    axes.spines["left"].set_visible(False)


def _predictions(axes: Axes, ink: Ink, scaled: NDArray[np.float64], moved: NDArray[np.float64]) -> None:
    axes.set_title("3   the speaker's predictions take them on", loc="left", fontsize=9, fontweight="bold")
    rows = (RAW, scaled, moved)
    names = ("raw", "deviation $\\bar\\sigma$\n(default)", "and mean $\\bar\\mu$\n(the full equation)")
    for row, (values, name) in enumerate(zip(rows, names, strict=True)):
        level = 2 - row
        if row:
            axes.plot([rows[row - 1], values], [level + 1, level], color=ink.faint, linewidth=0.8)
        axes.plot(values, np.full(len(values), level), "o", color=ink.speaker, markersize=5)
        axes.plot([values.mean()] * 2, [level - 0.14, level + 0.14], color=ink.text, linewidth=1.6)
        axes.text(-0.95, level, name, ha="left", va="center", fontsize=8, linespacing=1.4)
    axes.set(xlim=(-1, 7), ylim=(-0.45, 2.45), yticks=[], xticks=range(1, 8))
    axes.spines["bottom"].set_bounds(1, 7)
    axes.tick_params(labelsize=8)
    axes.set_xlabel("predicted arousal", x=0.25, ha="left", fontsize=8, color=ink.faint)
    axes.spines["left"].set_visible(False)


def _bell(values: NDArray[np.float64] | float, mean: float, std: float) -> NDArray[np.float64]:
    return np.asarray(np.exp(-0.5 * ((values - mean) / std) ** 2) / (std * np.sqrt(2 * np.pi)))


if __name__ == "__main__":
    for each in INKS:
        draw(each)
