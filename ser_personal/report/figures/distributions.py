"""True and predicted distributions of single speakers: the best served, the median and the worst."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ser_personal.finetune.scores import rows_by_speaker
from ser_personal.report.figures.canvas import CALIBRATED, LABELS, RAW, Drawing, blank, legend_above

if TYPE_CHECKING:
    from ser_personal.report.run_folder import RunFolder, ScoredSet

_BINS = 12


def chosen_speakers(run: RunFolder, test: ScoredSet, attribute: str) -> dict[str, str]:
    """`best`, `median` and `worst` by CCC after calibration -> speaker; fewer names where speakers are fewer."""
    ccc = {s: v for s, v in test.row(run.chosen).scores[attribute].per_speaker.items() if not np.isnan(v)}
    ordered = sorted(ccc, key=lambda speaker: -ccc[speaker])
    places = {"best": 0, "median": len(ordered) // 2, "worst": len(ordered) - 1}
    named: dict[str, str] = {}
    for name, place in places.items():
        if ordered and ordered[place] not in named.values():
            named[name] = ordered[place]
    return named


def distributions(run: RunFolder, test: ScoredSet, attribute: str) -> Drawing | None:
    """Draw histograms of labels, raw and calibrated predictions for the three; None where no speaker has a CCC."""
    from matplotlib.ticker import MaxNLocator

    chosen = chosen_speakers(run, test, attribute)
    if not chosen:
        return None
    rows_of, ccc = rows_by_speaker(test.speaker_ids), test.row(run.chosen).scores[attribute].per_speaker
    figure, plots = blank(0.6 + 1.5 * len(chosen), len(chosen))
    bins = np.linspace(*run.scale, _BINS + 1).tolist()
    for axes, (name, speaker) in zip(plots, chosen.items(), strict=True):
        rows = rows_of[speaker]
        labels, raw, calibrated = (
            test.values(attribute, kind)[rows].clip(*run.scale) for kind in ("label", "raw", "calibrated")
        )
        axes.hist(labels[~np.isnan(labels)], bins=bins, color=LABELS, alpha=0.45, label="labels")
        axes.hist(raw, bins=bins, histtype="step", color=RAW, linewidth=1.6, linestyle="--", label="raw")
        axes.hist(calibrated, bins=bins, histtype="step", color=CALIBRATED, linewidth=1.8, label="calibrated")
        axes.set_xlim(*run.scale)
        axes.set_ylabel("utterances")
        axes.yaxis.set_major_locator(MaxNLocator(3, integer=True))
        axes.text(1, 0.97, f"{name}: {speaker}\nCCC {ccc[speaker]:.2f}", transform=axes.transAxes, ha="right", va="top")
    plots[-1].set_xlabel(f"{attribute}, label points")
    legend_above(plots[0], 3)
    told = ", ".join(f"the {name} (speaker {speaker}, {ccc[speaker]:.2f})" for name, speaker in chosen.items())
    alt = f"Histograms of {attribute}, labels against raw and calibrated predictions, of the speakers by CCC: {told}."
    return Drawing(f"{test.name}/distributions/{attribute}", alt, figure)
