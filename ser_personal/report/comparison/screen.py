"""The comparison on the screen."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ser_personal.report.comparison.cells import gain, with_interval
from ser_personal.report.comparison.markdown import refusals

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ser_personal.report.comparison.compare_systems import ComparedSet


def show_sets(sets: Sequence[ComparedSet], baseline: str | None, min_utterances: int) -> None:
    """Print a table a test set and attribute; what stands under the scores is the difference to the baseline."""
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    for compared in sets:
        table = Table(title=f"{compared.split}: {compared.attribute}", title_justify="left", box=box.SIMPLE, padding=0)
        for heading in ("recipe", "calibration", "O-CCC", "A-CCC"):
            table.add_column(heading)
        before = None
        for row in compared.rows:
            recipe = escape(row.recipe) if row.recipe != before else ""
            before = row.recipe
            of_row = [(row.overall_ccc, row.overall_gain), (row.average_ccc, row.average_gain)]
            scores = [with_interval(score) + (f"\n{gain(than)}" if baseline else "") for score, than in of_row]
            table.add_row(recipe, row.calibration, *scores, style="dim" if row.is_oracle else None)
        console.print(table)
        under = f" Under each score its difference to {baseline}." if baseline else ""
        console.print(
            f"{compared.speakers} speakers, A-CCC over {compared.counted[min_utterances]}.{under}",
            *refusals(compared),
            *(f"{note}." for note in compared.notes),
            style="dim",
            markup=False,
        )
