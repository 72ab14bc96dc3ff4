"""What `causal_calibration` measured, as a figure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib as mpl
from enrolment import HEARD, ORACLE
from enrolment_scores import alike

from ser_personal.types import ATTRIBUTES

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from enrolment_scores import Gain
    from matplotlib.axes import Axes

# name, label, colour of Okabe and Ito, marker, line
SERIES = (
    ("affine", "affine map (nothing heard)", "#000000", "", "--"),
    ("mu", "PLDC, mu", "#E69F00", "s", "-"),
    ("sigma", "PLDC, sigma", "#56B4E9", "^", "-"),
    ("both", "PLDC, both", "#0072B2", "D", "-"),
    ("posterior", "PosteriorCalibrator", "#D55E00", "o", "-"),
    (ORACLE, "oracle: own labels heard", "#999999", "x", ":"),
)
APART = 0.8


def draw(measured: Mapping[str, Gain], path: Path) -> None:
    """Draw gains over the raw predictions against utterances heard, one panel a score and attribute."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(2, len(ATTRIBUTES), figsize=(10, 6), sharex=True, sharey="row", layout="constrained")
    for row, title in enumerate(("O-CCC", "A-CCC")):
        for column, attribute in enumerate(ATTRIBUTES):
            axes = panels[row, column]
            _panel(axes, measured, row, column)
            raw = measured["raw"].scores[row, 0, column]
            axes.set_title(f"{attribute}: {title}, raw {raw:.3f}", fontsize=10)
        panels[row, 0].set_ylabel(f"{title} gained over raw")
    for axes in panels[-1]:
        axes.set_xlabel("utterances heard of the speaker")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    same = " = ".join(alike(measured, "both"))
    labels = [label.replace("both", same) for label in labels]
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _panel(axes: Axes, measured: Mapping[str, Gain], row: int, column: int) -> None:
    axes.axhline(0, color="#666666", linewidth=0.8)
    for number, (name, label, colour, marker, line) in enumerate(SERIES):
        gain = measured[name]
        middle, low, high = (values[row, :, column] for values in (gain.gain, gain.low, gain.high))
        aside = APART * (number - len(SERIES) / 2)
        places = [heard + aside for heard in HEARD]
        if name == "affine":
            axes.plot(HEARD, middle, line, color=colour, label=label, linewidth=1.2)
            continue
        axes.errorbar(
            places,
            middle,
            yerr=[middle - low, high - middle],
            fmt=line,
            marker=marker,
            markersize=5,
            color=colour,
            linewidth=1.4,
            elinewidth=0.9,
            label=label,
        )
    axes.set_xticks(HEARD)
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
