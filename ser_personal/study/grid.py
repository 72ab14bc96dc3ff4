"""A study -> the runs of its grid, each with the commands that it stands for."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from ser_personal.corpus.personalization_gap import SIDES
from ser_personal.errors import UserError
from ser_personal.study.entries import Entry, entries
from ser_personal.study.schema import DIMENSIONS, Study
from ser_personal.study.stage import ROOT, Stage

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

Value = int | str | None


@dataclass(frozen=True)
class GridRun:
    """One recipe or preparation step at one place of the grid; None where one run serves all places.

    Attributes:
        name: of the recipe or step.
        kind: which of the two.
        seed: of the random numbers.
        fold: that is tested.
        attribute: that is predicted.
        training_speakers: how many there are, where the personalisation gap is studied.
        side: whether they are dependent, the test speakers among them, or independent.
        folder: relative to the study's.
        stages: in their order.
        needs: folders of the preparation runs that it uses, theirs included, relative to the study's.
    """

    name: str
    kind: Literal["recipe", "preparation"]
    seed: int | None
    fold: int | None
    attribute: str | None
    training_speakers: int | None
    side: str | None
    folder: str
    stages: tuple[Stage, ...]
    needs: tuple[str, ...]

    @property
    def title(self) -> str:
        """For people: `papt, seed 1, fold 0`."""
        at = [f"seed {self.seed}"] if self.seed is not None else []
        at += [f"fold {self.fold}"] if self.fold is not None else []
        at += [self.attribute] if self.attribute is not None else []
        at += [f"{self.training_speakers} speakers"] if self.training_speakers is not None else []
        return ", ".join([self.name, *at, *([self.side] if self.side is not None else [])])


def expand(study: Study) -> list[GridRun]:
    """Every run of the grid, each after those that it needs; a recipe's runs follow each other.

    Raises:
        UserError: braces name neither a preparation step that stands before nor something that the study knows.
    """
    dimensions: dict[str, frozenset[str]] = {}
    at: dict[tuple[str, tuple[Value, ...]], GridRun] = {}
    runs = []
    for entry in entries(study):
        wanted = set(entry.forced)
        for name in entry.mentions:
            if name in DIMENSIONS:
                wanted.add(name)
            elif name in dimensions:
                wanted |= dimensions[name]
            elif name not in {"out", "run", "root"}:
                raise UserError(
                    f"refers to {{{name}}}, and no preparation step of this name stands before it",
                    where=entry.name,
                    remedy=f"Choose one of {', '.join(['corpus', 'whole_corpus', 'seed', *dimensions])}",
                )
        _require_known(entry, wanted, study)
        for place in _places(study, wanted):
            needs = [at[name, _project(place, dimensions[name])] for name in entry.mentions if name in dimensions]
            run = _run(entry, place, needs)
            runs.append(run)
            if entry.kind == "preparation":
                at[entry.name, _project(place, frozenset(wanted))] = run
        if entry.kind == "preparation":
            dimensions[entry.name] = frozenset(wanted)
    return runs


def _require_known(entry: Entry, wanted: set[str], study: Study) -> None:
    of_gap = ("personalization_gap", study.personalization_gap)
    needed = {"fold": ("folds", study.folds), "attribute": ("attributes", study.attributes)}
    for name, (option, given) in (needed | {"training_speakers": of_gap, "side": of_gap}).items():
        if name in wanted and given is None:
            raise UserError(
                f"refers to {{{name}}}, and the study has no {option}",
                where=entry.name,
                remedy=f"Give the study {option}, or leave it out",
            )


def _places(study: Study, wanted: Iterable[str]) -> Iterator[dict[str, Value]]:
    values: dict[str, list[Value]] = {
        "seed": [*study.seeds],
        "fold": [*range(study.folds or 0)],
        "attribute": [*(study.attributes or ())],
        "training_speakers": [*(study.personalization_gap.speakers if study.personalization_gap else ())],
        "side": [*SIDES],
    }
    for place in itertools.product(*(values[name] if name in set(wanted) else [None] for name in DIMENSIONS)):
        yield dict(zip(DIMENSIONS, place, strict=True))


def _project(place: Mapping[str, Value], dimensions: frozenset[str]) -> tuple[Value, ...]:
    return tuple(place[name] if name in dimensions else None for name in DIMENSIONS)


def _run(entry: Entry, place: Mapping[str, Value], needs: list[GridRun]) -> GridRun:
    parts = [f"{name}_{place[name]}" for name in DIMENSIONS if place[name] is not None]
    folder = "/".join(["runs" if entry.kind == "recipe" else "prepare", entry.name, *parts])
    values = {name: str(value) for name, value in place.items()} | {"root": ROOT}
    values |= {run.name: f"{ROOT}/{run.stages[-1].out}" for run in needs}
    stages = []
    for stage in entry.stages:
        out = f"{folder}/{stage.out}"
        of_stage = values | {"out": f"{ROOT}/{out}", "run": f"{ROOT}/{folder}"}
        stages.append(replace(stage.filled(of_stage), out=out))
    seed, fold, attribute, speakers, side = (place[name] for name in DIMENSIONS)
    return GridRun(
        name=entry.name,
        kind=entry.kind,
        seed=None if seed is None else int(seed),
        fold=None if fold is None else int(fold),
        attribute=None if attribute is None else str(attribute),
        training_speakers=None if speakers is None else int(speakers),
        side=None if side is None else str(side),
        folder=folder,
        stages=tuple(stages),
        needs=tuple(dict.fromkeys(folder for run in needs for folder in (*run.needs, run.folder))),
    )
