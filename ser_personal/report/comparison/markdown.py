"""The comparison as a page of Markdown, and as one flat table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ser_personal.report.comparison.cells import calibration_name, gain, markdown_table, with_interval
from ser_personal.report.comparison.cost_tables import cost_tables
from ser_personal.report.comparison.glance import calibrated, uncalibrated
from ser_personal.report.comparison.paper import PAPER, SOURCE
from ser_personal.report.words import decimal

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

    from ser_personal.report.bootstrap import Bootstrap, Estimate
    from ser_personal.report.comparison.compare_systems import ComparedRow, ComparedSet
    from ser_personal.report.comparison.recipe_cost import RecipeCost


def page(
    sets: Sequence[ComparedSet],
    costs: Sequence[RecipeCost],
    *,
    baseline: str | None,
    bootstrap: Bootstrap,
    min_utterances: int,
    paper: bool,
) -> str:
    """Write the whole page: a section a test set and attribute, the costs, and how to read them."""
    against = f" Differences are to {baseline}, over the same draws." if baseline else ""
    parts = [
        "# Comparison",
        f"O-CCC is one CCC over all utterances, A-CCC the mean of speakers' own, over those with at least "
        f"{min_utterances} utterances. In brackets 95 % intervals from {bootstrap.resamples} draws of the test "
        "speakers, the same draws for every row, each speaker's CCC averaged over seeds first; they tell how far other "
        f"speakers could change a figure, not other seeds.{against} An oracle reads test labels and is never a result.",
    ]
    for compared in sets:
        parts += _section(compared, baseline, min_utterances)
        if paper and (rows := [row for row in PAPER if row.attribute == compared.attribute]):
            cells = [[row.system, decimal(row.overall_ccc), decimal(row.average_ccc)] for row in rows]
            parts += [
                f"### The paper's {compared.attribute}",
                markdown_table(["system", "O-CCC", "A-CCC"], cells),
                SOURCE,
            ]
    if costs:
        parts += ["## Cost", *cost_tables(costs)]
    return "\n\n".join(parts) + "\n"


def _section(compared: ComparedSet, baseline: str | None, min_utterances: int) -> list[str]:
    counted = compared.counted
    headings = ["recipe", "calibration", "seeds", "O-CCC", "A-CCC"]
    headings += ["O-CCC difference", "A-CCC difference"] if baseline else []
    rows = [_cells(row, with_gains=baseline is not None) for row in compared.rows]
    notes = [*refusals(compared), *(f"{note}." for note in compared.notes)]
    told = " ".join([f"{compared.speakers} speakers; A-CCC over {counted[min_utterances]} of them.", *notes])
    parts = [
        f"## {compared.split}: {compared.attribute}",
        told,
        uncalibrated(compared, baseline),
    ]
    if (at_a_glance := calibrated(compared)) is not None:
        parts += [at_a_glance, "Each of them with its intervals:", markdown_table(headings, rows)]
    others = [least for least in counted if least != min_utterances]
    parts.append(
        f"A-CCC over speakers with at least {' or '.join(map(str, others))} utterances instead, "
        f"{' or '.join(str(counted[least]) for least in others)} speakers:"
    )
    sensitive = [
        [row.recipe, calibration_name(row), *(decimal(row.sensitivity[least]) for least in sorted(counted))]
        for row in compared.rows
    ]
    parts.append(
        markdown_table(["recipe", "calibration", *(f"at least {least}" for least in sorted(counted))], sensitive)
    )
    return parts


def _cells(row: ComparedRow, *, with_gains: bool) -> list[str]:
    gains = [gain(row.overall_gain), gain(row.average_gain)] if with_gains else []
    scores = [with_interval(row.overall_ccc), with_interval(row.average_ccc)]
    return [row.recipe, calibration_name(row), str(row.seeds), *scores, *gains]


def refusals(compared: ComparedSet) -> list[str]:
    """Why figures of a set have no interval, each reason once."""
    estimates = [estimate for row in compared.rows for estimate in (row.overall_ccc, row.average_ccc)]
    return [f"No interval: {reason}." for reason in dict.fromkeys(each.refused for each in estimates) if reason]


def flat(sets: Sequence[ComparedSet], costs: Sequence[RecipeCost], *, paper: bool) -> pd.DataFrame:
    """One line a system, test set and attribute, with what its recipe costs; blank where undefined."""
    import pandas as pd

    seconds = {cost.recipe: cost.training_seconds for cost in costs}
    lines: list[dict[str, object]] = [
        {
            "split": compared.split,
            "attribute": compared.attribute,
            "recipe": row.recipe,
            "calibration": row.calibration,
            "is_oracle": row.is_oracle,
            "seeds": row.seeds,
            "speakers": compared.speakers,
            **numbers("overall_ccc", row.overall_ccc),
            **numbers("average_ccc", row.average_ccc),
            **numbers("overall_ccc_difference", row.overall_gain),
            **numbers("average_ccc_difference", row.average_gain),
            **{f"average_ccc_from_{least}_utterances": value for least, value in row.sensitivity.items()},
            **{f"speakers_from_{least}_utterances": number for least, number in compared.counted.items()},
            "training_seconds": seconds.get(row.recipe),
        }
        for compared in sets
        for row in compared.rows
    ]
    if paper:
        lines += [
            {"split": "paper, test-b", "attribute": row.attribute, "recipe": row.system, "is_oracle": False}
            | {"overall_ccc": row.overall_ccc, "average_ccc": row.average_ccc}
            for row in PAPER
        ]
    return pd.DataFrame(lines)


def numbers(name: str, estimate: Estimate | None) -> dict[str, float | None]:
    """Columns of a figure and the ends of its interval."""
    if estimate is None:
        return dict.fromkeys((name, f"{name}_low", f"{name}_high"))
    return {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
