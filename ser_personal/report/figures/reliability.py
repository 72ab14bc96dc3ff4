"""Calibration plots: what was labelled where the model predicted this much."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ser_personal.report.figures.canvas import CALIBRATED, INK, RAW, Drawing, blank, legend_above

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ser_personal.report.run_folder import RunFolder, ScoredSet

_BINS = 10


def reliability(run: RunFolder, test: ScoredSet, attribute: str) -> Drawing:
    """Draw the mean label over the mean prediction in ten equally full bins, before and after calibration."""
    figure, (axes,) = blank(4.2)
    axes.plot(run.scale, run.scale, color=INK, linewidth=1, linestyle=":", label="label = prediction")
    labels = test.values(attribute, "label")
    distance = {}
    for kind, colour, marker in (("raw", RAW, "s"), ("calibrated", CALIBRATED, "o")):
        predicted, labelled = binned_means(test.values(attribute, kind), labels)
        axes.plot(predicted, labelled, marker=marker, color=colour, markersize=5, label=kind)
        distance[kind] = float(np.mean(np.abs(predicted - labelled)))
    axes.set_xlim(*run.scale)
    axes.set_ylim(*run.scale)
    axes.set_xlabel(f"predicted {attribute}, label points")
    axes.set_ylabel("mean label")
    axes.grid()
    legend_above(axes, 3)
    alt = (
        f"Mean label over predicted {attribute} in {_BINS} bins; mean distance to the diagonal {distance['raw']:.2f} "
        f"label points raw, {distance['calibrated']:.2f} calibrated."
    )
    return Drawing(f"{test.name}/calibration/{attribute}", alt, figure)


def binned_means(
    predictions: NDArray[np.float64], labels: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean prediction and mean label of each of ten bins, equally full, ordered by prediction."""
    labelled = ~np.isnan(labels)
    order = np.argsort(predictions[labelled], kind="stable")
    bins = [rows for rows in np.array_split(order, _BINS) if len(rows)]
    means = [[values[labelled][rows].mean() for rows in bins] for values in (predictions, labels)]
    return np.array(means[0]), np.array(means[1])
