"""The personalisation gap: what knowing the test speakers gives, over the number of training speakers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ser_personal.report.comparison.compare_systems import counted_speakers, draws_of, estimate
from ser_personal.report.comparison.compared_runs import GapPoint

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from ser_personal.report.bootstrap import Bootstrap, Estimate
    from ser_personal.report.comparison.compared_runs import ComparedRun
    from ser_personal.report.comparison.systems import TestSet


@dataclass(frozen=True)
class Contrast:
    """One metric on both sides.

    Attributes:
        dependent: of models that know the test speakers.
        independent: of those that don't.
        gap: dependent minus independent, over the same draws of the speakers.
    """

    dependent: Estimate
    independent: Estimate
    gap: Estimate


@dataclass(frozen=True)
class GapRow:
    """One recipe at one number of training speakers, its predictions uncalibrated.

    Attributes:
        recipe: name.
        training_speakers: on each side.
        seeds: averaged, of the side that has fewer.
        overall_ccc: O-CCC.
        average_ccc: A-CCC.
    """

    recipe: str
    training_speakers: int
    seeds: int
    overall_ccc: Contrast
    average_ccc: Contrast


@dataclass(frozen=True)
class GapSet:
    """The gap on one test set and attribute.

    Attributes:
        split: name of the set.
        attribute: what is predicted.
        speakers: that O-CCC is over, and that are resampled.
        counted: speakers that A-CCC is over.
        rows: recipe by recipe, by the number of training speakers.
    """

    split: str
    attribute: str
    speakers: int
    counted: int
    rows: tuple[GapRow, ...]


def find_gaps(
    tests: Sequence[TestSet], runs: Sequence[ComparedRun], bootstrap: Bootstrap, min_utterances: int = 10
) -> list[GapSet]:
    """Hold both sides of each point against each other; points with one side alone are left out.

    Args:
        tests: the systems of the runs.
        runs: of a study of the gap; others have none.
        bootstrap: makes the draws and the intervals.
        min_utterances: labelled utterances a speaker must have to count in A-CCC.

    Returns:
        Test sets that have a gap.
    """
    points = list(dict.fromkeys(run.point for run in runs if run.point is not None))
    recipes = list(dict.fromkeys(point.recipe for point in points))
    numbers = sorted({point.training_speakers for point in points})
    sets = []
    for test in tests:
        # the first row of a recipe is its raw predictions
        raw = {system.recipe: system for system in reversed(test.systems)}
        weights, counted = draws_of(test, bootstrap), counted_speakers(test, min_utterances)

        def contrast(sides: Sequence[NDArray[np.float64]], speakers: int) -> Contrast:
            dependent, independent = sides
            compared = (dependent, independent, dependent - independent)
            return Contrast(*(estimate(bootstrap, figures, speakers) for figures in compared))

        rows = []
        for recipe in recipes:
            for number in numbers:
                names = [GapPoint(recipe, number, side).name for side in ("dependent", "independent")]
                if not all(name in raw for name in names):
                    continue
                both = [raw[name] for name in names]
                rows.append(
                    GapRow(
                        recipe=recipe,
                        training_speakers=number,
                        seeds=min(system.seeds for system in both),
                        overall_ccc=contrast([each.overall_ccc(weights) for each in both], len(test.speakers)),
                        average_ccc=contrast([each.average_ccc(weights, counted) for each in both], int(counted.sum())),
                    )
                )
        if rows:
            sets.append(GapSet(test.split, test.attribute, len(test.speakers), int(counted.sum()), tuple(rows)))
    return sets
