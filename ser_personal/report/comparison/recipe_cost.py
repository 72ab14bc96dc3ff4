"""What a recipe costs: each of its commands, and the preparation that it shares with others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ser_personal.report.comparison.compared_runs import ComparedRun
    from ser_personal.report.comparison.run_record import StageCost

# making the corpus and looking at the result are no part of training
_NO_TRAINING = {"synth", "folds", "check", "import", "test"}


@dataclass(frozen=True)
class RecipeStage:
    """A command of a recipe, the mean over its runs; None where it wasn't counted.

    Attributes:
        name: fit, test, or the preparation step's.
        command: fit, test, kmeans, ...
        is_shared: other recipes may use what it made.
        seconds: wall time of one run.
        cpu_seconds: of all threads.
        speech_hours: that went through the model, every epoch counted.
        flops: floating-point operations.
        peak_memory: bytes, of the run that took most.
        trained_parameters: that it changed.
    """

    name: str
    command: str
    is_shared: bool
    seconds: float
    cpu_seconds: float | None
    speech_hours: float | None
    flops: float | None
    peak_memory: int | None
    trained_parameters: int | None


@dataclass(frozen=True)
class RecipeCost:
    """All commands behind a recipe's models, in their order."""

    recipe: str
    stages: tuple[RecipeStage, ...]

    @property
    def training_seconds(self) -> float:
        """To train one model from the corpus on, shared preparation included."""
        return float(sum(stage.seconds for stage in self._training))

    @property
    def training_cpu_seconds(self) -> float | None:
        """The same on the processor, of all threads; None where a stage's wasn't counted."""
        return _total([stage.cpu_seconds for stage in self._training])

    @property
    def training_flops(self) -> float | None:
        """Floating-point operations of the stages that counted them; None where none did."""
        return _total([stage.flops for stage in self._training if stage.flops is not None])

    @property
    def _training(self) -> list[RecipeStage]:
        return [stage for stage in self.stages if stage.command not in _NO_TRAINING]


def recipe_costs(runs: Sequence[ComparedRun]) -> list[RecipeCost]:
    """Average what the runs of each recipe took; recipes that nothing is recorded of are left out."""
    costs = []
    for recipe in dict.fromkeys(run.recipe for run in runs):
        own = [run for run in runs if run.recipe == recipe]
        shared: dict[str, list[list[StageCost]]] = {}
        for record in dict.fromkeys(record for run in own for record in run.needs):
            shared.setdefault(record.name, []).append(list(record.stages))
        stages = [stage for name, of_step in shared.items() for stage in _means(of_step, name)]
        stages += _means([list(run.stages) for run in own], None)
        if stages:
            costs.append(RecipeCost(recipe, tuple(stages)))
    return costs


def _means(runs: Sequence[Sequence[StageCost]], step: str | None) -> list[RecipeStage]:
    means = []
    for command in dict.fromkeys(stage.command for stages in runs for stage in stages):
        found = [stage for stages in runs for stage in stages if stage.command == command]
        speech = _mean([stage.speech_seconds for stage in found])
        memory = [stage.peak_memory for stage in found if stage.peak_memory is not None]
        weights = [stage.trained_parameters for stage in found if stage.trained_parameters is not None]
        means.append(
            RecipeStage(
                name=step or command,
                command=command,
                is_shared=step is not None,
                seconds=float(np.mean([stage.seconds for stage in found])),
                cpu_seconds=_mean([stage.cpu_seconds for stage in found]),
                speech_hours=None if speech is None else speech / 3600,
                flops=_mean([stage.flops for stage in found]),
                peak_memory=max(memory, default=None),
                trained_parameters=max(weights, default=None),
            )
        )
    return means


def _total(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(sum(known)) if known and len(known) == len(values) else None


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
