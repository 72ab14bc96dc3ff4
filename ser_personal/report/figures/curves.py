"""Training curves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ser_personal.report.figures.canvas import EXTRA, Drawing, blank, legend_above

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ser_personal.report.training_curves import Curve, Fit

_MARKERS = "os^Dvx"


def training_figures(fit: Fit) -> list[Drawing]:
    """Draw a fit's losses, and its validation CCC where it logged one."""
    losses = [curve for curve in fit.curves if "loss" in curve.name]
    scores = [curve for curve in fit.curves if curve.name.endswith(("_overall_ccc", "_average_ccc"))]
    drawn = [_figure(f"{fit.stage}/loss", "loss", fit, losses)]
    if scores:
        drawn.append(_figure(f"{fit.stage}/validation", "validation CCC", fit, scores))
    return drawn


def _figure(name: str, quantity: str, fit: Fit, curves: Sequence[Curve]) -> Drawing:
    figure, (axes,) = blank(2.9 + 0.16 * len(curves))
    for place, curve in enumerate(curves):
        style = "--" if "average" in curve.name or "unseen" in curve.name else "-"
        colour, marker = EXTRA[place % len(EXTRA)], _MARKERS[place % len(_MARKERS)]
        axes.plot(
            curve.steps, curve.values, style, marker=marker, markersize=3.5, color=colour, label=_plain(curve.name)
        )
    axes.set_xlabel(f"step of {fit.stage}")
    axes.set_ylabel(quantity)
    axes.grid()
    legend_above(axes, 1 if max(len(_plain(curve.name)) for curve in curves) > 16 else 2)
    ends = "; ".join(f"{_plain(curve.name)} from {curve.values[0]:.3g} to {curve.values[-1]:.3g}" for curve in curves)
    return Drawing(f"training/{name}", f"Curves of {fit.stage} over {fit.steps} steps: {ends}.", figure)


def _plain(name: str) -> str:
    words = {"train_": "training ", "val_": "validation ", "overall_ccc": "O-CCC", "average_ccc": "A-CCC", "_": " "}
    for written, plain in words.items():
        name = name.replace(written, plain)
    return name
