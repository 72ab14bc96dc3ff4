"""The report's figures.

They are as wide as a phone, so that text keeps its size there, and take the page's text colour in light and in dark.
"""

from __future__ import annotations

import re
from contextlib import contextmanager
from dataclasses import dataclass
from io import StringIO
from typing import TYPE_CHECKING, Any, Literal, NamedTuple
from warnings import catch_warnings, filterwarnings

import numpy as np

from ser_personal.calibration.table import decimal
from ser_personal.report.bootstrap import paired_gain, signed_interval, speaker_gains

if TYPE_CHECKING:
    from collections.abc import Iterator

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ser_personal.evaluation.run_files import RunFiles, ScoredSet
    from ser_personal.report.audit import Audit, SetAudit
    from ser_personal.report.bootstrap import Bootstrap, Estimate

WIDTH = 4.0  # inches
INK = "#1b2127"

# Okabe and Ito's colours, told apart by colour-blind people and on both backgrounds.
RAW = "#d55e00"
CALIBRATED = "#0a84c6"
LABELS = "#8a8f98"

_STYLE: dict[Any, Any] = {
    "font.size": 9.5,
    "font.family": "sans-serif",
    # a $ in a name doesn't begin a formula
    "text.parse_math": False,
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
    """A figure and its alternative text, for people who can't see it."""

    alt: str
    figure: Figure


@contextmanager
def style() -> Iterator[None]:
    """Settings to draw and save under; matplotlib's own are restored afterwards."""
    from matplotlib import rc_context

    with rc_context(_STYLE), catch_warnings():
        # names in scripts that this font lacks; a browser has another font for them
        filterwarnings("ignore", "Glyph .* missing from font")
        yield


def blank(height: float) -> tuple[Figure, Axes]:
    """A figure of phone width and `height` inches, and its plot."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.subplots()


def legend_above(axes: Axes) -> None:
    """Put the legend above the plot, where it covers nothing."""
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0.2, handlelength=1.4)


def as_svg(drawing: Drawing) -> str:
    """SVG to embed in a page: without prologue and links, in the page's text colour."""
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


class Row(NamedTuple):
    """A row of the score table: its short name, its kind, and what it means."""

    short: str
    kind: Literal["method", "control", "baseline", "oracle"]
    meaning: str


ROWS = {
    "raw": Row("raw", "method", "what the model predicts, uncalibrated"),
    "mu": Row("PLDC: mean", "method", "predictions get the mean of the most similar training speakers' labels"),
    "sigma": Row("PLDC: deviation", "method", "predictions get the standard deviation of those labels"),
    "both": Row("PLDC: both", "method", "PLDC of mean and standard deviation: the paper's full equation"),
    "posterior": Row(
        "posterior",
        "method",
        "ours: each speaker's label moments, estimated from speaker vectors and predictions by a regression "
        "fitted on validation speakers",
    ),
    "affine": Row("one map for all", "control", "one affine map for all speakers, fitted on validation speakers"),
    "population": Row("all speakers", "control", "PLDC towards all training speakers; similarity must do better"),
    "random_speakers": Row("random speakers", "control", "PLDC towards random training speakers, mean over draws"),
    "own_statistics": Row(
        "own labels (oracle)", "oracle", "never a result: PLDC towards the moments of the test labels"
    ),
    "ridge": Row("ridge regression", "baseline", "on MFCC functionals, fitted on the training split"),
}


def row_text(name: str) -> Row:
    """The report's words for a row; a row that `ROWS` lacks, such as a caller's own method, has only its name."""
    return ROWS.get(name, Row(name, "method", ""))


def settings(run: RunFiles) -> str:
    """How predictions.csv was calibrated."""
    pldc = run.pldc
    extras = [name for name, used in (("centred vectors", pldc.center), ("clipped", pldc.clip)) if used]
    return ", ".join([f"{run.chosen}, k = {pldc.k}, {pldc.statistics} statistics", *extras])


_KINDS = {"method": (CALIBRATED, "o"), "control": (LABELS, "D"), "baseline": (RAW, "s"), "oracle": (LABELS, "x")}


def forest(run: RunFiles, test: ScoredSet, attribute: str, bootstrap: Bootstrap) -> Drawing | None:
    """Draw what each row of the score table gains in A-CCC over raw predictions; None where no speaker has a CCC."""
    row_of = {row.name: row_text(row.name) for row in test.rows if row.name != "raw"}
    names = sorted(row_of, key=lambda name: list(_KINDS).index(row_of[name].kind))
    gains = {name: paired_gain(test, attribute, name, "raw", bootstrap) for name in names}
    gains = {name: gain for name, gain in gains.items() if not np.isnan(gain.value)}
    if not gains:
        return None
    figure, axes = blank(1.0 + 0.27 * len(gains))
    axes.axvline(0, color=INK, linewidth=0.8, linestyle=":")
    for y, (name, gain) in enumerate(gains.items()):
        colour, marker = _KINDS[row_of[name].kind]
        filled = name == run.chosen or marker == "x"
        if gain.refused is None:
            axes.plot([gain.low, gain.high], [y] * 2, color=colour, linewidth=2.2 if filled else 1.4)
        axes.plot([gain.value], [y], marker, color=colour, markersize=6, markerfacecolor=None if filled else "none")
        text = decimal(test.row(name).scores[attribute].average_ccc)
        axes.text(1.02, y, text, transform=axes.get_yaxis_transform(), va="center")
    raw = decimal(test.row("raw").scores[attribute].average_ccc)
    axes.set_title(f"{attribute}: raw {raw}")
    axes.text(1.02, -0.9, "A-CCC", transform=axes.get_yaxis_transform(), va="center")
    axes.set_yticks(range(len(gains)), [row_of[name].short for name in gains])
    for name, tick in zip(gains, axes.yaxis.get_major_ticks(), strict=True):
        tick.label1.set_fontweight("bold" if name == run.chosen else "normal")
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(gains) - 0.4, -0.6)
    axes.margins(x=0.1)
    axes.set_xlabel("A-CCC minus that of raw predictions")
    axes.grid(axis="x")
    listed = "; ".join(f"{row_of[name].short} {signed_interval(gain)}" for name, gain in gains.items())
    return Drawing(f"A-CCC of {attribute} compared with raw predictions, {raw}: {listed}.", figure)


def short(name: str, longest: int = 14) -> str:
    """A name as a figure has room for it: its two ends where it has more characters than `longest`."""
    half = longest // 2
    return name if len(name) <= longest else f"{name[: half - 1]}\N{HORIZONTAL ELLIPSIS}{name[-half:]}"


_MOST_NAMED = 120


def dumbbells(run: RunFiles, test: ScoredSet, attribute: str) -> Drawing | None:
    """Draw a line per speaker, from the CCC of raw predictions to that of calibrated ones; None without any."""
    change_of = speaker_gains(test, attribute, run.chosen, "raw")
    if not change_of:
        return None
    raw = test.row("raw").scores[attribute].per_speaker
    speakers = sorted(change_of, key=lambda speaker: raw[speaker])
    row_height = 0.19 if len(speakers) <= _MOST_NAMED else 0.05
    figure, axes = blank(1.1 + row_height * max(len(speakers), 2))
    for y, speaker in enumerate(speakers):
        before, after = raw[speaker], raw[speaker] + change_of[speaker]
        axes.plot([before, after], [y] * 2, color=INK, linewidth=1.2, linestyle=":" if after < before else "-")
    ys = range(len(speakers))
    axes.plot([raw[s] for s in speakers], ys, "o", markersize=5, color=RAW, markerfacecolor="none", label="raw")
    axes.plot([raw[s] + change_of[s] for s in speakers], ys, "o", markersize=5, color=CALIBRATED, label="calibrated")
    axes.set_yticks(ys, [short(name) if len(speakers) <= _MOST_NAMED else "" for name in speakers])
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(-0.7, len(speakers) - 0.3)
    axes.set_xlabel(f"CCC of {attribute}; dotted: calibration lowers it")
    axes.set_ylabel("speaker")
    axes.grid(axis="x")
    legend_above(axes)
    fallen = sum(change < 0 for change in change_of.values())
    alt = (
        f"CCC of {attribute} of {len(speakers)} speakers before and after calibration: it rises for "
        f"{len(speakers) - fallen} and falls for {fallen}."
    )
    return Drawing(alt, figure)


_SYSTEMS = {"raw": (RAW, "s", 0.17), "calibrated": (CALIBRATED, "o", -0.17)}


def group_figure(audited: SetAudit, attribute: str) -> Drawing | None:
    """Draw the mean absolute error of all groups, without a bar where there is no interval; None of one group."""
    from matplotlib.ticker import MaxNLocator

    rows: list[tuple[str, dict[str, Estimate]]] = [
        (group, {name: of_system[name][group].scores.mean_absolute_error for name in _SYSTEMS})
        for partition in audited.partitions
        for of_system in [partition.groups.get(attribute, {"raw": {}})]
        for group in of_system["raw"]
    ]
    if len(rows) < 2:
        return None
    figure, axes = blank(1.2 + 0.36 * len(rows))
    ys = np.arange(len(rows))[::-1]
    for system, (colour, marker, offset) in _SYSTEMS.items():
        for y, (_, estimates) in zip(ys, rows, strict=True):
            estimate = estimates[system]
            if estimate.refused is None:
                axes.plot([estimate.low, estimate.high], [y + offset] * 2, color=colour, linewidth=1.6)
        values = [estimates[system].value for _, estimates in rows]
        axes.plot(values, ys + offset, marker, color=colour, markersize=5, label=system)
    axes.set_yticks(ys, [name for name, _ in rows])
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    figure.supxlabel(f"mean absolute error of {attribute}, label points", fontsize="medium")
    axes.grid(axis="x")
    legend_above(axes)
    listed = "; ".join(
        f"{name} {of['raw'].value:.2f} raw, {of['calibrated'].value:.2f} calibrated" for name, of in rows
    )
    return Drawing(f"Mean absolute error of {attribute} by group, with 95 % intervals: {listed}.", figure)


def draw_all(run: RunFiles, found: Audit) -> dict[str, dict[str, list[Drawing]]]:
    """Draw every figure: test set -> section of the page -> its figures."""
    figures: dict[str, dict[str, list[Drawing]]] = {}
    with style():
        for test, audited in zip(run.sets, found.sets, strict=True):
            drawn = {
                "forest": [forest(run, test, attribute, found.bootstrap) for attribute in run.attributes],
                "speakers": [dumbbells(run, test, attribute) for attribute in run.attributes],
                "groups": [group_figure(audited, attribute) for attribute in run.attributes],
            }
            figures[test.name] = {section: [each for each in of if each is not None] for section, of in drawn.items()}
    return figures
