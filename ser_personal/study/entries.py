"""A study -> its preparation steps and recipes, with the `ser` commands that each stands for."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from ser_personal.study.schema import FOLDS, GAP, Preparation, Recipe, Study
from ser_personal.study.stage import Stage, names_in

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping


@dataclass(frozen=True)
class Entry:
    """A preparation step or a recipe.

    Attributes:
        name: of the step or recipe.
        kind: which of the two.
        stages: its commands, in their order.
        forced: dimensions of the grid that it runs along whatever its commands refer to.
    """

    name: str
    kind: Literal["recipe", "preparation"]
    stages: tuple[Stage, ...]
    forced: frozenset[str]

    @property
    def mentions(self) -> list[str]:
        """Names that its commands refer to, each once."""
        return list(dict.fromkeys(name for stage in self.stages for word in stage.words for name in names_in(word)))


def entries(study: Study) -> Iterator[Entry]:
    """Steps, then recipes, with {corpus} replaced by what it stands for.

    What divides the corpus is a step after the last one that the corpus itself refers to.
    """
    steps = list(study.prepare)
    corpus, divide = _divided(study)
    if divide is not None:
        behind = [number for number, step in enumerate(steps) if step.name in names_in(study.corpus)]
        steps.insert(max(behind, default=-1) + 1, divide)
    stands_for = {"corpus": corpus, "whole_corpus": study.corpus}

    for step in steps:
        is_fit = step.command == "fit"
        stage = _fit(study, step) if is_fit else _plain(step.command, step.configs, step.arguments)
        yield Entry(step.name, "preparation", (stage.filled(stands_for),), frozenset())
    for recipe in study.recipes:
        if recipe.command is not None:
            stage = _plain(recipe.command, recipe.configs, recipe.arguments)
            yield Entry(recipe.name, "recipe", (stage.filled(stands_for),), frozenset())
            continue
        forced = {"seed"} | ({"attribute"} if study.attributes is not None else set())
        stages = tuple(stage.filled(stands_for) for stage in _fit_and_test(study, recipe))
        yield Entry(recipe.name, "recipe", stages, frozenset(forced))


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
