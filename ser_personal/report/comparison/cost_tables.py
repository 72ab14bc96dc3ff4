"""What recipes cost, in Markdown: to train one model altogether, and stage by stage."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ser_personal.report.comparison.cells import markdown_table
from ser_personal.report.words import duration

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ser_personal.report.comparison.recipe_cost import RecipeCost, RecipeStage


READ_TOTALS = (
    "To train one model from the corpus on, shared steps included: the mean over a recipe's runs. Operations are those "
    "of the steps that count them."
)
READ_STAGES = (
    "Peak memory is the largest run's. Audio counts every time that it went through the model. Floating-point "
    "operations are counted on some batches and scaled by audio. Shared steps serve several recipes, and are listed "
    "with each that needs them. A dash stands for what nothing counted."
)


def cost_tables(costs: Sequence[RecipeCost]) -> list[str]:
    """Both tables, each with how to read it; the former only of recipes whose training is on record."""
    trained = [cost for cost in costs if cost.training_seconds]
    totals = [_totals(trained), READ_TOTALS] if trained else []
    return [*totals, _stages(costs), READ_STAGES]


def _totals(costs: Sequence[RecipeCost]) -> str:
    rows = [
        [
            cost.recipe,
            duration(cost.training_seconds),
            "-" if cost.training_cpu_seconds is None else duration(cost.training_cpu_seconds),
            "-" if cost.training_flops is None else operations(cost.training_flops),
        ]
        for cost in costs
    ]
    return markdown_table(["training", "time", "CPU time", "operations"], rows)


def _stages(costs: Sequence[RecipeCost]) -> str:
    headings = ["recipe", "stage", "trained parameters", "time", "CPU time", "audio", "operations", "peak memory"]
    return markdown_table(headings, [[cost.recipe, *_stage(stage)] for cost in costs for stage in cost.stages])


def _stage(stage: RecipeStage) -> list[str]:
    return [
        stage.name + (" (shared)" if stage.is_shared else ""),
        "-" if stage.trained_parameters is None else f"{stage.trained_parameters:,}",
        duration(stage.seconds),
        "-" if stage.cpu_seconds is None else duration(stage.cpu_seconds),
        "-" if stage.speech_hours is None else duration(stage.speech_hours * 3600),
        "-" if stage.flops is None else operations(stage.flops),
        "-" if stage.peak_memory is None else f"{stage.peak_memory / 2**30:.2f} GiB",
    ]


def operations(flops: float) -> str:
    """Floating-point operations as people say them: 3.4 T, 1.2 P."""
    for unit, size in (("E", 1e18), ("P", 1e15), ("T", 1e12), ("G", 1e9)):
        if flops >= size:
            return f"{flops / size:.3g} {unit}"
    return f"{flops:.3g}"
