"""How an audit divides a test set: by gender, label region, amount of speech, or a column of the corpus."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from ser_personal.finetune.scores import rows_by_speaker

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ser_personal.report.run_folder import ScoredSet

_ENOUGH_FOR_THIRDS = 30


@dataclass(frozen=True)
class Partition:
    """Groups of utterances.

    Attributes:
        name: what divides them.
        groups: their names, in order.
        membership: (utterances,), the group of each, None for none.
        note: what a reader must know to read the groups rightly.
        attribute: the only one it is meant for, None for all.
    """

    name: str
    groups: tuple[str, ...]
    membership: tuple[str | None, ...]
    note: str
    attribute: str | None = None


def by_gender(test: ScoredSet) -> Partition:
    """Divide by the gender that the corpus records."""
    recorded = tuple(test.utterances["gender"])
    return Partition(
        "gender",
        _sorted(recorded),
        recorded,
        "As the corpus spells it; recorded by its makers, not asked of the speakers.",
    )


def by_label_region(test: ScoredSet, attribute: str, scale: tuple[float, float]) -> Partition:
    """Divide by thirds of the label scale."""
    labels = test.values(attribute, "label")
    low, high = scale
    first, second = low + (high - low) / 3, low + 2 * (high - low) / 3
    names = (
        f"low labels (below {first:g})",
        f"middle labels ({first:g} to {second:g})",
        f"high labels (above {second:g})",
    )
    region = np.where(labels < first, 0, np.where(labels <= second, 1, 2))
    return Partition(
        f"label of {attribute}",
        names,
        tuple(None if np.isnan(label) else names[which] for label, which in zip(labels, region, strict=True)),
        "Thirds of the scale. Within a third the labels hardly differ, which lowers any CCC, and predictions that keep "
        "to the middle are off in opposite directions at both ends: compare bias and error, not CCC.",
        attribute,
    )


def by_amount_of_speech(test: ScoredSet) -> Partition:
    """Divide the speakers by how much speech there is of each, in thirds, or halves where they are few."""
    amounts = {speaker: recorded.seconds for speaker, recorded in test.speakers.items()}
    unit = "s"
    if any(np.isnan(list(amounts.values()))):
        amounts = {speaker: float(recorded.utterances) for speaker, recorded in test.speakers.items()}
        unit = "utterances"
    groups, names = _cut(np.array(list(amounts.values())), len(amounts), unit)
    name_of = dict(zip(amounts, names, strict=True))
    membership = tuple(None if speaker is None else name_of[speaker] for speaker in test.speaker_ids)
    note = "All test speech of a speaker, which is also what calibrates them."
    return Partition("amount of speech", groups, membership, note)


def by_column(name: str, values: Sequence[str | None], speaker_ids: Sequence[str | None]) -> Partition:
    """Divide by a column of the corpus; one of many different numbers is cut into thirds, or halves.

    Args:
        name: of the column.
        values: (utterances,), None where blank.
        speaker_ids: (utterances,), None where unknown.
    """
    given = sorted({value for value in values if value is not None})
    numbers = _numbers(given)
    if numbers is None or len(given) <= 6:
        return Partition(name, _sorted(values), tuple(values), "As the table has it.")
    filled = [row for row, value in enumerate(values) if value is not None]
    amounts = np.array([float(values[row] or "nan") for row in filled])
    groups, names = _cut(amounts, len(rows_by_speaker(speaker_ids)), "")
    name_of = dict(zip(filled, names, strict=True))
    membership = tuple(name_of.get(row) for row in range(len(values)))
    return Partition(name, groups, membership, "Numbers, cut where they divide evenly.")


def _sorted(values: Sequence[str | None]) -> tuple[str, ...]:
    return tuple(sorted({value for value in values if value is not None}))


def _numbers(values: Sequence[str]) -> list[float] | None:
    try:
        return [float(value) for value in values]
    except ValueError:
        return None


def _cut(values: NDArray[np.float64], speakers: int, unit: str) -> tuple[tuple[str, ...], list[str]]:
    """Cut values at their quantiles: names of the parts in use, in order, and of each value's part."""
    parts = 3 if speakers >= _ENOUGH_FOR_THIRDS else 2
    cuts = np.unique(np.quantile(values, np.arange(1, parts) / parts))
    texts = [f"{cut:.3g} {unit}".strip() for cut in cuts]
    names = [f"up to {texts[0]}", *(f"{a} to {b}" for a, b in pairwise(texts)), f"over {texts[-1]}"]
    part = np.searchsorted(cuts, values, side="left")
    return tuple(names[which] for which in np.unique(part)), [names[which] for which in part]
