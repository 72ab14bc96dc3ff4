"""Runs -> systems: seeds and folds joined, the same speakers in all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ser_personal.calibration.speaker_moments import MOMENTS
from ser_personal.errors import UserError
from ser_personal.report.comparison.system import System
from ser_personal.types import ATTRIBUTES

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

    from ser_personal.report.comparison.compared_runs import ComparedRun


@dataclass(frozen=True, eq=False)
class TestSet:
    """The systems of one test set and attribute, in the order of the runs.

    Attributes:
        split: name of the set.
        attribute: what is predicted.
        speakers: of the set, sorted; the same for all systems.
        systems: a recipe's calibrations one after the other.
        left_out: seeds that lack speakers, one sentence each.
    """

    split: str
    attribute: str
    speakers: tuple[str, ...]
    systems: tuple[System, ...]
    left_out: tuple[str, ...]


def join_runs(runs: Sequence[ComparedRun]) -> list[TestSet]:
    """Join the folds of each seed, then the seeds of each recipe, for every test set and attribute.

    Raises:
        UserError: a speaker is tested twice by one seed, or no recipe met all speakers, or the labels differ.
    """
    import pandas as pd

    table = pd.concat(
        run.moments.assign(recipe=run.recipe, seed="" if run.seed is None else str(run.seed)) for run in runs
    )
    twice = table[table.duplicated(["recipe", "seed", "split", "row", "draw", "attribute", "speaker"])]
    if len(twice):
        first = twice.iloc[0]
        raise UserError(
            f"speaker {first['speaker']} is tested twice on {first['split']}",
            where=first["recipe"],
            remedy="Give each run once, under a folder name of its own",
        )
    found = table.groupby(["split", "attribute"], sort=False)
    order = {attribute: place for place, attribute in enumerate(ATTRIBUTES)}
    sets = [_join(part) for _, part in found]
    return sorted(sets, key=lambda test: (test.split, order.get(test.attribute, len(order))))


def _join(table: pd.DataFrame) -> TestSet:
    split, attribute = str(table["split"].iloc[0]), str(table["attribute"].iloc[0])
    speakers = sorted(table["speaker"].unique())
    left_out, whole = [], []
    for (recipe, seed), part in table.groupby(["recipe", "seed"], sort=False):
        missing = len(speakers) - part["speaker"].nunique()
        if missing:
            which = f"{recipe}, seed {seed}" if seed else str(recipe)
            left_out.append(f"{which} was not tested on {missing} of {len(speakers)} speakers")
        else:
            whole.append(part)
    if not whole:
        raise UserError(
            f"no recipe was tested on all {len(speakers)} speakers of {split} that the others were tested on",
            where=attribute,
            remedy="Compare runs on the same test set; a study's missing folds come by running it again",
        )
    systems, labels = [], None
    for recipe in dict.fromkeys(part["recipe"].iloc[0] for part in whole):
        of_recipe = [part for part in whole if part["recipe"].iloc[0] == recipe]
        for row in dict.fromkeys(name for part in of_recipe for name in part["row"]):
            having = [part[part["row"] == row] for part in of_recipe]
            system = _system(recipe, row, [part for part in having if len(part)], speakers)
            own = (system.utterances, system.moments[0, :, 1])
            labels = own if labels is None else labels
            _require_same_labels(labels, own, system, speakers)
            systems.append(system)
    return TestSet(split, attribute, tuple(speakers), tuple(systems), tuple(left_out))


def _system(recipe: str, row: str, parts: Sequence[pd.DataFrame], speakers: Sequence[str]) -> System:
    replicates = [draw.set_index("speaker").loc[list(speakers)] for part in parts for _, draw in part.groupby("draw")]
    return System(
        recipe=recipe,
        calibration=row,
        is_oracle=bool(parts[0]["is_oracle"].iloc[0]),
        seeds=len(parts),
        utterances=replicates[0]["utterances"].to_numpy(dtype=np.float64),
        moments=np.stack([draw[list(MOMENTS)].to_numpy(dtype=np.float64) for draw in replicates]),
        ccc=np.stack([draw["ccc"].to_numpy(dtype=np.float64) for draw in replicates]),
    )


def _require_same_labels(
    expected: tuple[np.ndarray, np.ndarray], own: tuple[np.ndarray, np.ndarray], system: System, speakers: Sequence[str]
) -> None:
    counts, means = (np.isclose(one, other) for one, other in zip(expected, own, strict=True))
    same = counts & means
    if not same.all():
        raise UserError(
            f"other utterances or labels of speaker {speakers[int(np.argmin(same))]} than in the first recipe",
            where=system.name,
            remedy="Compare runs on one test set with the same labels",
        )
