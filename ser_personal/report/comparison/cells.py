"""Cells and tables of the comparison's page, in Markdown."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ser_personal.report.words import decimal, interval, signed, signed_interval

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ser_personal.report.bootstrap import Estimate
    from ser_personal.report.comparison.compare_systems import ComparedRow

ORACLE = " (oracle)"


def with_interval(estimate: Estimate) -> str:
    """A figure and its interval, alone where it has none."""
    return interval(estimate) if estimate.refused is None else decimal(estimate.value)


def gain(estimate: Estimate | None) -> str:
    """A difference and its interval, alone where it has none."""
    if estimate is None:
        return "baseline"
    return signed_interval(estimate) if estimate.refused is None else signed(estimate.value)


def calibration_name(row: ComparedRow) -> str:
    """A calibration as the tables name it: an oracle says so."""
    return row.calibration + (ORACLE if row.is_oracle else "")


def markdown_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Write a table, without strokes in its cells."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)
