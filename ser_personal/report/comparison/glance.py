"""A test set at a glance: every recipe uncalibrated, and what each calibration makes of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ser_personal.report.comparison.cells import calibration_name, gain, markdown_table, with_interval
from ser_personal.report.words import decimal

if TYPE_CHECKING:
    from ser_personal.report.comparison.compare_systems import ComparedRow, ComparedSet


def uncalibrated(compared: ComparedSet, baseline: str | None) -> str:
    """A table of the recipes' own predictions: scores, and differences to the baseline where there is one."""
    rows = [
        [row.recipe, str(row.seeds), with_interval(row.overall_ccc), with_interval(row.average_ccc)]
        + ([gain(row.overall_gain), gain(row.average_gain)] if baseline else [])
        for row in (calibrations[0] for calibrations in _by_recipe(compared).values())
    ]
    headings = ["recipe, uncalibrated", "seeds", "O-CCC", "A-CCC"]
    return markdown_table([*headings, *(["O-CCC difference", "A-CCC difference"] if baseline else [])], rows)


def calibrated(compared: ComparedSet) -> str | None:
    """A table of O-CCC / A-CCC, recipe x calibration; None where nothing was calibrated."""
    recipes = {name: rows for name, rows in _by_recipe(compared).items() if len(rows) > 1}
    names = list(dict.fromkeys(calibration_name(row) for rows in recipes.values() for row in rows))
    if not names:
        return None
    table = []
    for recipe, rows in recipes.items():
        scores = {
            calibration_name(row): f"{decimal(row.overall_ccc.value)} / {decimal(row.average_ccc.value)}"
            for row in rows
        }
        table.append([recipe, *(scores.get(name, "-") for name in names)])
    return markdown_table(["O-CCC / A-CCC", *names], table)


def _by_recipe(compared: ComparedSet) -> dict[str, list[ComparedRow]]:
    recipes: dict[str, list[ComparedRow]] = {}
    for row in compared.rows:
        recipes.setdefault(row.recipe, []).append(row)
    return recipes
