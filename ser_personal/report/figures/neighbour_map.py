"""Who calibrated whom."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from ser_personal.report.figures.canvas import CALIBRATED, INK, LABELS, Drawing, blank, legend_above

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ser_personal.report.run_folder import RunFolder, ScoredSet

_LINKS = 3
_MOST_NAMED = 60


def neighbour_plane(run: RunFolder, test: ScoredSet) -> Drawing:
    """Draw all speaker vectors in the plane of their greatest variance, test speakers linked to the nearest three.

    Vectors are taken to length 1, as the cosine takes them.
    """
    both = np.concatenate([_unit(run.training.vectors), _unit(test.vectors.vectors)])
    plane, explained = _principal_plane(both)
    training, tested = plane[: len(run.training.speaker_ids)], plane[len(run.training.speaker_ids) :]
    place_of = dict(zip(run.training.speaker_ids, training, strict=True))
    figure, (axes,) = blank(4.6)
    for speaker, place in zip(test.vectors.speaker_ids, tested, strict=True):
        for neighbour in test.speakers[speaker].neighbours[:_LINKS]:
            axes.plot(*zip(place, place_of[neighbour], strict=True), color=INK, linewidth=0.5, alpha=0.5)
    axes.plot(*training.T, "o", color=LABELS, markersize=4, label="training speaker")
    axes.plot(*tested.T, "^", color=CALIBRATED, markersize=6, label=f"{test.name} speaker")
    if len(tested) <= _MOST_NAMED:
        for speaker, place in zip(test.vectors.speaker_ids, tested, strict=True):
            axes.annotate(speaker, place, xytext=(4, 3), textcoords="offset points", fontsize=8.5)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_xlabel(f"two directions that hold {explained:.0%} of the variance")
    legend_above(axes, 2)
    alt = (
        f"Map of {len(training)} training and {len(tested)} test speakers by speaker vector, each test speaker linked "
        f"to the nearest {_LINKS} of the neighbours that calibrated them."
    )
    return Drawing(f"{test.name}/neighbours/map", alt, figure)


def neighbour_matrix(test: ScoredSet) -> Drawing:
    """Draw the cosine of each test speaker to each neighbour used, the most used neighbour first."""
    used = Counter(neighbour for speaker in test.speakers.values() for neighbour in speaker.neighbours)
    columns = [neighbour for neighbour, _ in used.most_common()]
    column_of = {neighbour: column for column, neighbour in enumerate(columns)}
    cosines = np.full((len(test.speakers), len(columns)), np.nan)
    for row, speaker in enumerate(test.speakers.values()):
        cosines[row, [column_of[neighbour] for neighbour in speaker.neighbours]] = speaker.cosines
    figure, (axes,) = blank(1.5 + 0.17 * min(max(len(cosines), 4), _MOST_NAMED))
    image = axes.imshow(cosines, aspect="auto", cmap="cividis", interpolation="nearest")
    axes.set_yticks(range(len(cosines)), list(test.speakers) if len(cosines) <= _MOST_NAMED else [""] * len(cosines))
    axes.tick_params(axis="y", length=0)
    shown = range(0, len(columns), max(len(columns) // 8, 1))
    axes.set_xticks(list(shown), [f"{columns[column]}\n({used[columns[column]]})" for column in shown])
    axes.set_xlabel("training speaker (test speakers calibrated)")
    axes.set_ylabel(f"{test.name} speaker")
    for spine in axes.spines.values():
        spine.set_visible(False)
    bar = figure.colorbar(image, ax=axes, location="top", aspect=40, label="cosine")
    bar.outline.set_visible(False)
    name, times = used.most_common(1)[0] if used else ("", 0)
    alt = (
        f"Which of {len(columns)} training speakers calibrated each of {len(cosines)} test speakers, by cosine; the "
        f"most used, {name}, calibrated {times}."
    )
    return Drawing(f"{test.name}/neighbours/matrix", alt, figure)


def _unit(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(lengths > 0, lengths, 1.0)


def _principal_plane(vectors: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """The two principal coordinates (n, 2) and the share of the variance that they hold."""
    centred = vectors - vectors.mean(axis=0)
    left, singular, _ = np.linalg.svd(centred, full_matrices=False)
    share = float((singular[:2] ** 2).sum() / (singular**2).sum()) if singular.any() else 0.0
    return left[:, :2] * singular[:2], share
