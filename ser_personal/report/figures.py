"""The report's figures: as wide as a phone, and in the page's text colour, light or dark."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import StringIO
from typing import TYPE_CHECKING, Any, Literal, NamedTuple
from warnings import catch_warnings, filterwarnings

import numpy as np

from ser_personal.calibration.table import decimal
from ser_personal.evaluation.run_files import RunFiles, ScoredSet
from ser_personal.report.bootstrap import Bootstrap, paired_gain, signed_interval, speaker_gains

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

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


def as_svg(drawing: Drawing) -> Markup:
    """SVG to embed in a page, with its alternative text: without prologue and links, in the page's text colour."""
    from markupsafe import Markup

    text = StringIO()
    drawing.figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' xmlns(:xlink)?="[^"]*"', "", svg).replace("xlink:href", "href")
    opening, _, rest = svg.partition(">")
    svg = re.sub(r' (width|height)="[^"]*"', "", opening) + ">" + rest
    svg = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", svg).replace(INK, "currentColor")
    opening = Markup('<svg role="img" aria-label="{}" ').format(drawing.alt)
    # what matplotlib writes is safe: it escapes all text that it draws
    return opening + Markup(svg.removeprefix("<svg "))  # noqa: S704


class Row(NamedTuple):
    """A row of the score table: its name in figures, and its kind."""

    short: str
    kind: Literal["method", "control", "baseline", "oracle"]


ROWS = {
    "raw": Row("raw", "method"),
    "mu": Row("PLDC: mean", "method"),
    "sigma": Row("PLDC: deviation", "method"),
    "both": Row("PLDC: both", "method"),
    "posterior": Row("posterior", "method"),
    "affine": Row("one map for all", "control"),
    "population": Row("all speakers", "control"),
    "random_speakers": Row("random speakers", "control"),
    "own_statistics": Row("own labels (oracle)", "oracle"),
    "ridge": Row("ridge regression", "baseline"),
}


_KINDS = {"method": (CALIBRATED, "o"), "control": (LABELS, "D"), "baseline": (RAW, "s"), "oracle": (LABELS, "x")}


def forest(run: RunFiles, test: ScoredSet, attribute: str, bootstrap: Bootstrap) -> Drawing | None:
    """Draw what each row of the score table gains in A-CCC over raw predictions; None where no speaker has a CCC."""
    # a caller's own method has only its name
    row_of = {row.name: ROWS.get(row.name, Row(row.name, "method")) for row in test.rows if row.name != "raw"}
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
        axes.plot([gain.low, gain.high], [y] * 2, color=colour, linewidth=2.2 if filled else 1.4)
        axes.plot([gain.value], [y], marker, color=colour, markersize=6, markerfacecolor=None if filled else "none")
        text = decimal(test.row(name).scores[attribute].average_ccc)
        axes.text(1.02, y, text, transform=axes.get_yaxis_transform(), va="center")
    raw = decimal(test.row("raw").scores[attribute].average_ccc)
    axes.set_title(f"{attribute}: raw {raw}")
    axes.text(1.02, -0.9, "A-CCC", transform=axes.get_yaxis_transform(), va="center")
    axes.set_yticks(range(len(gains)), [row_of[name].short for name in gains])
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


def dumbbells(run: RunFiles, test: ScoredSet, attribute: str) -> Drawing | None:
    """Draw a line per speaker, from the CCC of raw predictions to that of calibrated ones; None without any."""
    change_of = speaker_gains(test, attribute, run.chosen, "raw")
    if not change_of:
        return None
    raw = test.row("raw").scores[attribute].per_speaker
    speakers = sorted(change_of, key=lambda speaker: raw[speaker])
    named = len(speakers) <= 120
    figure, axes = blank(1.1 + (0.19 if named else 0.05) * max(len(speakers), 2))
    for y, speaker in enumerate(speakers):
        before, after = raw[speaker], raw[speaker] + change_of[speaker]
        axes.plot([before, after], [y] * 2, color=INK, linewidth=1.2, linestyle=":" if after < before else "-")
    ys = range(len(speakers))
    axes.plot([raw[s] for s in speakers], ys, "o", markersize=5, color=RAW, markerfacecolor="none", label="raw")
    axes.plot([raw[s] + change_of[s] for s in speakers], ys, "o", markersize=5, color=CALIBRATED, label="calibrated")
    axes.set_yticks(ys, [short(name) if named else "" for name in speakers])
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(-0.7, len(speakers) - 0.3)
    axes.set_xlabel(f"CCC of {attribute}; dotted: calibration lowers it")
    axes.set_ylabel("speaker")
    axes.grid(axis="x")
    # above the plot, where it covers nothing
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0.2, handlelength=1.4)
    fallen = sum(change < 0 for change in change_of.values())
    alt = (
        f"CCC of {attribute} of {len(speakers)} speakers before and after calibration: it rises for "
        f"{len(speakers) - fallen} and falls for {fallen}."
    )
    return Drawing(alt, figure)
