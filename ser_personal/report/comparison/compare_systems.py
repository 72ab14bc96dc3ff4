"""Figures, intervals and paired differences of every system: what the comparison's table says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ser_personal.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ser_personal.report.bootstrap import Bootstrap, Estimate
    from ser_personal.report.comparison.system import System
    from ser_personal.report.comparison.systems import TestSet

SENSITIVITY = (5, 20)


@dataclass(frozen=True)
class ComparedRow:
    """One system on one test set and attribute.

    Attributes:
        recipe: name.
        calibration: raw, sigma, posterior, ...
        is_oracle: it read test labels, so it is never a result.
        seeds: how many were averaged.
        overall_ccc: O-CCC.
        average_ccc: A-CCC.
        overall_gain: over the baseline, paired; None where there is no baseline.
        average_gain: over the baseline, paired; None where there is no baseline.
        sensitivity: utterances that a speaker must have -> A-CCC over those speakers.
    """

    recipe: str
    calibration: str
    is_oracle: bool
    seeds: int
    overall_ccc: Estimate
    average_ccc: Estimate
    overall_gain: Estimate | None
    average_gain: Estimate | None
    sensitivity: dict[int, float]


@dataclass(frozen=True)
class ComparedSet:
    """All systems on one test set and attribute.

    Attributes:
        split: name of the set.
        attribute: what is predicted.
        rows: one a system.
        speakers: that O-CCC is over, and that are resampled.
        counted: utterances that a speaker must have -> speakers that A-CCC is over, the same for all rows.
        notes: what was left out.
    """

    split: str
    attribute: str
    rows: tuple[ComparedRow, ...]
    speakers: int
    counted: dict[int, int]
    notes: tuple[str, ...]


def find_baseline(tests: Sequence[TestSet], name: str | None) -> str | None:
    """Complete a baseline's name: `papt/sigma` is one calibration, `papt` its first, the raw predictions.

    Raises:
        UserError: no system has this name.
    """
    if name is None:
        return None
    systems = [system for test in tests for system in test.systems]
    found = next((each.name for each in systems if name in {each.name, each.recipe}), None)
    if found is None:
        recipes = ", ".join(dict.fromkeys(each.recipe for each in systems))
        raise UserError(
            f"no recipe {name} to compare with",
            where="--baseline",
            remedy=f"Choose one of {recipes}, or one with its calibration, such as {systems[0].name}",
        )
    return found


def compare_systems(test: TestSet, baseline: str | None, bootstrap: Bootstrap, min_utterances: int = 10) -> ComparedSet:
    """Score every system by the same draws of the speakers.

    A-CCC counts, for all systems alike, the speakers with enough utterances whose own CCC is defined in every system.

    Args:
        test: the systems.
        baseline: name of the one that the others are held against; ignored where this set lacks it.
        bootstrap: makes the draws and the intervals.
        min_utterances: labelled utterances a speaker must have to count in A-CCC.
    """
    weights = draws_of(test, bootstrap)
    counted = {least: counted_speakers(test, least) for least in sorted({*SENSITIVITY, min_utterances})}
    base = next((system for system in test.systems if system.name == baseline), None)

    def figures(system: System) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        return system.overall_ccc(weights), system.average_ccc(weights, counted[min_utterances])

    of_base = None if base is None else figures(base)
    number = int(counted[min_utterances].sum())
    rows = []
    for system in test.systems:
        overall, average = figures(system)
        gains = None if of_base is None or system is base else (overall - of_base[0], average - of_base[1])
        rows.append(
            ComparedRow(
                recipe=system.recipe,
                calibration=system.calibration,
                is_oracle=system.is_oracle,
                seeds=system.seeds,
                overall_ccc=estimate(bootstrap, overall, len(test.speakers)),
                average_ccc=estimate(bootstrap, average, number),
                overall_gain=None if gains is None else estimate(bootstrap, gains[0], len(test.speakers)),
                average_gain=None if gains is None else estimate(bootstrap, gains[1], number),
                sensitivity={least: float(system.average_ccc(weights[:1], who)[0]) for least, who in counted.items()},
            )
        )
    return ComparedSet(
        split=test.split,
        attribute=test.attribute,
        rows=tuple(rows),
        speakers=len(test.speakers),
        counted={least: int(who.sum()) for least, who in counted.items()},
        notes=test.left_out,
    )


def draws_of(test: TestSet, bootstrap: Bootstrap) -> NDArray[np.float64]:
    """How often each speaker is taken, (1 + resamples, speakers): the speakers as they are, then each draw of them."""
    return np.vstack([np.ones((1, len(test.speakers))), bootstrap.weights([None] * len(test.speakers))])


def counted_speakers(test: TestSet, min_utterances: int) -> NDArray[np.bool_]:
    """Whom (speakers,) A-CCC is over: who has enough utterances, and a CCC of their own in every system."""
    defined = np.all([system.defined for system in test.systems], axis=0)
    return np.asarray(defined & (test.systems[0].utterances >= min_utterances))


def estimate(bootstrap: Bootstrap, figures: NDArray[np.float64], speakers: int) -> Estimate:
    """The first figure is of the speakers as they are, the others of the draws."""
    return bootstrap.estimate(float(figures[0]), figures[1:], speakers)
