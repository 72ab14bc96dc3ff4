"""Each speaker's CCC before and after calibration."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ser_personal.report.figures.canvas import CALIBRATED, INK, RAW, Drawing, blank, legend_above
from ser_personal.report.harm import speaker_changes

if TYPE_CHECKING:
    from ser_personal.report.run_folder import RunFolder, ScoredSet

_MOST_NAMED = 120


def dumbbells(run: RunFolder, test: ScoredSet, attribute: str) -> Drawing:
    """Draw a line a speaker, from the CCC of raw predictions to that of calibrated ones; dotted where it falls."""
    change_of = speaker_changes(run, test, attribute)
    raw = test.row("raw").scores[attribute].per_speaker
    speakers = sorted(change_of, key=lambda speaker: raw[speaker])
    row_height = 0.19 if len(speakers) <= _MOST_NAMED else 0.05
    figure, (axes,) = blank(1.1 + row_height * max(len(speakers), 2))
    for place, speaker in enumerate(speakers):
        before, after = raw[speaker], raw[speaker] + change_of[speaker]
        axes.plot([before, after], [place] * 2, color=INK, linewidth=1.2, linestyle=":" if after < before else "-")
    places = range(len(speakers))
    axes.plot([raw[s] for s in speakers], places, "o", markersize=5, color=RAW, markerfacecolor="none", label="raw")
    axes.plot(
        [raw[s] + change_of[s] for s in speakers], places, "o", markersize=5, color=CALIBRATED, label="calibrated"
    )
    axes.set_yticks(places, speakers if len(speakers) <= _MOST_NAMED else [""] * len(speakers))
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(-0.7, len(speakers) - 0.3)
    axes.set_xlabel(f"CCC of {attribute}; dotted: calibration lowers it")
    axes.set_ylabel("speaker")
    axes.grid(axis="x")
    legend_above(axes, 2)
    fallen = sum(change < 0 for change in change_of.values())
    alt = (
        f"CCC of {attribute} of {len(speakers)} speakers before and after calibration: it rises for "
        f"{len(speakers) - fallen} and falls for {fallen}."
    )
    return Drawing(f"{test.name}/speakers/{attribute}", alt, figure)
