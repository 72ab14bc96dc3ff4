"""What `causal_calibration` measured, as Markdown."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from enrolment import HEARD, ORACLE, joined
from enrolment_scores import alike, coverage, gains

from ser_personal.types import ATTRIBUTES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from enrolment import Enrolled
    from enrolment_scores import Coverage, Gain

TITLES = ("O-CCC", "A-CCC")
WANTED = 0.9
STEADY = ("raw", "affine")
COVERED = ("raw", "both", "posterior")


def gain_tables(enrolled: Enrolled, measured: Mapping[str, Gain]) -> list[str]:
    """Tables for O-CCC and A-CCC, calibrator and utterances heard x attribute, and of posterior against PLDC."""
    against = {f"posterior over {other}": gains(enrolled, over=other)["posterior"] for other in ("mu", "both")}
    return [
        *(_gain_table(measured, row, title) for row, title in enumerate(TITLES)),
        *(_gain_table(against, row, title) for row, title in enumerate(TITLES)),
    ]


def coverage_table(tested: Sequence[Enrolled], validated: Sequence[Enrolled], scale: tuple[float, float]) -> str:
    """The coverage of intervals after the most utterances heard, by errors of two kinds of speakers."""
    number = len(validated[0].speaker_ids)
    others = [joined([part for part in tested if part is not one]) for one in tested]
    # by the definition few speakers have no finite interval: asked for this much less, it is their plain quantile
    plain = WANTED * number / (number + 1)
    sources = (
        (f"{number} validation speakers, plain quantile", validated, plain),
        (f"{len(others[0].speaker_ids)} speakers of the other folds", others, WANTED),
    )
    heading = "| errors of | calibrator | attribute | mean | min | 10 % | 50 % | 90 % | max | width |\n"
    lines = [heading + "|---|---|---|" + "---:|" * 7]
    for source, measured_on, wanted in sources:
        for name in COVERED:
            covered = coverage(tested, measured_on, name, len(HEARD) - 1, wanted=wanted, scale=scale)
            lines += [f"| {source} | {name} | {row} |" for row in _coverage_rows(covered)]
    return "\n".join(lines) + "\n"


def headline(measured: Mapping[str, Gain]) -> str:
    """The gains of some calibrators after each number heard, in a line."""
    parts = []
    for name in ("affine", "sigma", "both", "posterior", ORACLE):
        average = measured[name].gain[1, 1:].mean(axis=1)
        parts.append(f"{name} {', '.join(f'{value:+.3f}' for value in average)}")
    heard = ", ".join(str(number) for number in HEARD[1:])
    return f"A-CCC over raw, mean of the attributes, after {heard} utterances: {'; '.join(parts)}"


def _gain_table(measured: Mapping[str, Gain], row: int, title: str) -> str:
    lines = [f"| {title} | utterances | {' | '.join(ATTRIBUTES)} |", "|---|---:|---|---|---|"]
    for name, gain in measured.items():
        same = alike(measured, name)
        if name != same[0]:
            continue
        stages = [0] if name in STEADY else range(1, len(HEARD))
        for stage in stages:
            cells = [_cell(gain, row, stage, column, alone=name == "raw") for column in range(len(ATTRIBUTES))]
            heard = "any" if stage == 0 else HEARD[stage]
            lines.append(f"| {', '.join(same)} | {heard} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(gain: Gain, row: int, stage: int, column: int, *, alone: bool) -> str:
    at = (row, stage, column)
    score = f"{gain.scores[at]:.3f}"
    return score if alone else f"{score} ({gain.gain[at]:+.3f}; {gain.low[at]:+.3f} to {gain.high[at]:+.3f})"


def _coverage_rows(covered: Coverage) -> list[str]:
    rows = []
    for column, attribute in enumerate(ATTRIBUTES):
        shares = covered.shares[:, column]
        spread = np.percentile(shares, (0, 10, 50, 90, 100))
        cells = [f"{value:.3f}" for value in (shares.mean(), *spread)]
        rows.append(f"{attribute} | {' | '.join(cells)} | {covered.widths[column]:.2f}")
    return rows
