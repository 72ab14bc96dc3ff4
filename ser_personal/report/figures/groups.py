"""Groups side by side, with their intervals."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ser_personal.report.figures.canvas import CALIBRATED, INK, RAW, Drawing, blank, legend_above

if TYPE_CHECKING:
    from ser_personal.report.audit import SetAudit
    from ser_personal.report.bootstrap import Estimate

QUANTITIES = {"mean_absolute_error": "mean absolute error", "bias": "bias"}
_SYSTEMS = {"raw": (RAW, "s", 0.17), "calibrated": (CALIBRATED, "o", -0.17)}


def group_figure(audited: SetAudit, attribute: str, quantity: str) -> Drawing:
    """Draw one figure of all groups of all partitions, raw and calibrated; without a bar where none was made."""
    from matplotlib.ticker import MaxNLocator

    rows: list[tuple[str, dict[str, Estimate]]] = []
    for partition in audited.partitions:
        for group in partition.groups.get(attribute, {"raw": {}})["raw"]:
            scores = {system: partition.groups[attribute][system][group].scores for system in _SYSTEMS}
            rows.append((f"{group}", {system: getattr(of, quantity) for system, of in scores.items()}))
    figure, (axes,) = blank(1.2 + 0.36 * len(rows))
    places = np.arange(len(rows))[::-1]
    for system, (colour, marker, offset) in _SYSTEMS.items():
        for place, (_, estimates) in zip(places, rows, strict=True):
            estimate = estimates[system]
            if estimate.refused is None:
                axes.plot([estimate.low, estimate.high], [place + offset] * 2, color=colour, linewidth=1.6)
        values = [estimates[system].value for _, estimates in rows]
        axes.plot(values, places + offset, marker, color=colour, markersize=5, label=system)
    if quantity == "bias":
        axes.axvline(0, color=INK, linewidth=0.8, linestyle=":")
    axes.set_yticks(places, [name for name, _ in rows])
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    figure.supxlabel(f"{QUANTITIES[quantity]} of {attribute}, label points", fontsize="medium")
    axes.grid(axis="x")
    legend_above(axes, 2)
    told = "; ".join(f"{name} {of['raw'].value:.2f} raw, {of['calibrated'].value:.2f} calibrated" for name, of in rows)
    alt = f"{QUANTITIES[quantity].capitalize()} of {attribute} by group, with 95 % intervals: {told}."
    return Drawing(f"{audited.name}/groups/{attribute}_{quantity}", alt, figure)
