"""A study -> the runs of its grid, each with the commands that it stands for."""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from ser_personal.corpus.personalization_gap import SIDES
from ser_personal.errors import UserError
from ser_personal.study.schema import DIMENSIONS, FOLDS, GAP, Preparation, Recipe, Study

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

_BRACES = re.compile(r"\{(\w+)\}")
ROOT = "{root}"
Value = int | str | None


@dataclass(frozen=True)
class Stage:
    """One `ser` command of a run.

    Attributes:
        name: fit, test, or the command.
        words: behind `ser`; {root} stands for the study's folder.
        configs: YAMLs among them.
        out: folder that the command writes to, relative to the study's.
    """

    name: str
    words: tuple[str, ...]
    configs: tuple[str, ...]
    out: str


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


@dataclass(frozen=True)
class _Entry:
    """A step or recipe with its stages unresolved."""

    name: str
    kind: Literal["recipe", "preparation"]
    stages: tuple[Stage, ...]
    forced: frozenset[str]

    @property
    def mentions(self) -> list[str]:
        return list(
            dict.fromkeys(name for stage in self.stages for word in stage.words for name in _BRACES.findall(word))
        )


def expand(study: Study) -> list[GridRun]:
    """Every run of the grid, each after those that it needs; a recipe's runs follow each other.

    Raises:
        UserError: braces name neither a preparation step that stands before nor something that the study knows.
    """
    dimensions: dict[str, frozenset[str]] = {}
    at: dict[tuple[str, tuple[Value, ...]], GridRun] = {}
    runs = []
    for entry in _entries(study):
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


def _require_known(entry: _Entry, wanted: set[str], study: Study) -> None:
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


def _run(entry: _Entry, place: Mapping[str, Value], needs: list[GridRun]) -> GridRun:
    parts = [f"{name}_{place[name]}" for name in DIMENSIONS if place[name] is not None]
    folder = "/".join(["runs" if entry.kind == "recipe" else "prepare", entry.name, *parts])
    values = {name: str(value) for name, value in place.items()} | {"root": ROOT}
    values |= {run.name: f"{ROOT}/{run.stages[-1].out}" for run in needs}
    stages = []
    for stage in entry.stages:
        out = f"{folder}/{stage.out}"
        of_stage = values | {"out": f"{ROOT}/{out}", "run": f"{ROOT}/{folder}"}
        words = tuple(_fill(word, of_stage) for word in stage.words)
        stages.append(Stage(stage.name, words, stage.configs, out))
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


def _fill(word: str, values: Mapping[str, str]) -> str:
    """Put values in the place of names in braces; other names stay."""
    return _BRACES.sub(lambda match: values.get(match[1], match[0]), word)


def _entries(study: Study) -> Iterator[_Entry]:
    """Steps, then recipes, with {corpus} replaced by what it stands for.

    What divides the corpus is a step after the last one that the corpus itself refers to.
    """
    steps = list(study.prepare)
    corpus, divide = _divided(study)
    if divide is not None:
        behind = [number for number, step in enumerate(steps) if step.name in _BRACES.findall(study.corpus)]
        steps.insert(max(behind, default=-1) + 1, divide)
    stands_for = {"corpus": corpus, "whole_corpus": study.corpus}

    def filled(stages: Iterable[Stage]) -> tuple[Stage, ...]:
        return tuple(
            Stage(
                stage.name,
                tuple(_fill(word, stands_for) for word in stage.words),
                stage.configs,
                stage.out,
            )
            for stage in stages
        )

    for step in steps:
        is_fit = step.command == "fit"
        stage = _fit(study, step) if is_fit else _plain(step.command, step.configs, step.arguments)
        yield _Entry(step.name, "preparation", filled([stage]), frozenset())
    for recipe in study.recipes:
        if recipe.command is not None:
            yield _Entry(
                recipe.name, "recipe", filled([_plain(recipe.command, recipe.configs, recipe.arguments)]), frozenset()
            )
            continue
        forced = {"seed"} | ({"attribute"} if study.attributes is not None else set())
        yield _Entry(recipe.name, "recipe", filled(_fit_and_test(study, recipe)), frozenset(forced))


def _divided(study: Study) -> tuple[str, Preparation | None]:
    """What {corpus} stands for, and the step that writes its tables; None where the corpus is taken as it is."""
    arguments: dict[str, Any] = {"corpus": study.corpus}
    if study.folds is not None:
        arguments |= {"count": study.folds, "validation_folds": study.validation_folds}
        return f"{{{FOLDS}}}/fold_{{fold}}.csv", Preparation(FOLDS, "folds", arguments=arguments)
    if study.personalization_gap is not None:
        arguments |= asdict(study.personalization_gap)
        table = f"{{{GAP}}}/speakers_{{training_speakers}}_{{side}}.csv"
        overlap = {"path": table, "allow_overlap": [study.personalization_gap.test_split]}
        return json.dumps({"class_path": "CSVCorpus", "init_args": overlap}), Preparation(
            GAP, "gap", arguments=arguments
        )
    return study.corpus, None


def _plain(command: str, configs: list[str], arguments: dict[str, Any]) -> Stage:
    return Stage(command, (command, *_configs(configs), "--out", "{out}", *_flags(arguments)), tuple(configs), "out")


def _fit(study: Study, step: Preparation) -> Stage:
    configs = (*step.configs, *study.fit_configs)
    return Stage("fit", ("fit", *_configs(configs), *_stage_flags(study), *_flags(step.arguments)), configs, "out")


def _fit_and_test(study: Study, recipe: Recipe) -> list[Stage]:
    own = {"seed_everything": "{seed}"}
    own |= {"model.attributes": "[{attribute}]"} if study.attributes is not None else {}
    fit, test = (*recipe.configs, *study.fit_configs), (*recipe.configs, *study.test_configs)
    common = (*_stage_flags(study), *_flags(own), *_flags(recipe.arguments))
    checkpoint = recipe.checkpoint if recipe.checkpoint.startswith("{") else f"{{run}}/fit/{recipe.checkpoint}"
    stages = [Stage("fit", ("fit", *_configs(fit), *common, *_flags(recipe.fit_arguments)), fit, "fit")]
    tested = Stage("test", ("test", *_configs(test), *common, "--ckpt_path", checkpoint), test, "test")
    return [*(stages if recipe.fit else []), tested]


def _stage_flags(study: Study) -> tuple[str, ...]:
    return _flags(
        {
            "data.corpus": "{corpus}",
            "trainer.default_root_dir": "{out}",
            "trainer.devices": study.devices,
            "trainer.enable_progress_bar": False,
        }
    )


def _configs(paths: Iterable[str]) -> tuple[str, ...]:
    return tuple(word for path in paths for word in ("--config", path))


def _flags(arguments: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(
        word
        for name, value in arguments.items()
        for word in (f"--{name}", value if isinstance(value, str) else json.dumps(value))
    )
