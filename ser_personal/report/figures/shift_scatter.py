"""Shift from the training set against CCC, speaker by speaker."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ser_personal.report.figures.canvas import RAW, Drawing, blank
from ser_personal.report.shifts import NAMES, ShiftAnalysis, shift_table
from ser_personal.report.words import decimal, signed_interval

if TYPE_CHECKING:
    from ser_personal.report.run_folder import ScoredSet


def shift_scatter(test: ScoredSet, attribute: str, found: ShiftAnalysis) -> Drawing | None:
    """Draw a point a speaker, feature shift above and label shift below; None where fewer than three have both."""
    table = shift_table(test, attribute)
    if len(table.speakers) < 3:
        return None
    figure, panels = blank(4.2, rows=2)
    of_panel = (("feature", table.feature, "nats a dimension"), ("label", table.label, "nats"))
    for axes, (name, shift, unit) in zip(panels, of_panel, strict=True):
        estimate = found.correlations[f"{name}_shift_and_ccc"]
        axes.plot(shift, table.ccc, "o", color=RAW, markersize=5, markerfacecolor="none")
        text = signed_interval(estimate) if estimate.refused is None else decimal(estimate.value)
        axes.set_title(f"{name} shift: r = {text}")
        axes.set_xlabel(f"KL(speaker || training set), {unit}")
        axes.set_ylabel(f"CCC of {attribute}")
        axes.grid()
    told = "; ".join(f"{NAMES[name]} {decimal(each.value)}" for name, each in found.correlations.items())
    alt = f"Shift from the training set and CCC of {attribute}, {found.speakers} speakers. Correlations: {told}."
    return Drawing(f"{test.name}/shifts/{attribute}", alt, figure)
