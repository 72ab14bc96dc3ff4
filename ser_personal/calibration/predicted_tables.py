"""Tables of predictions or labels, such as the predictions.csv that `ser test` writes."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from ser_personal.calibration.table import PredictedSet
from ser_personal.corpus.splits import canonical_split
from ser_personal.corpus.table import known, read_csv_rows
from ser_personal.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from ser_personal.calibration.vector_files import Vectors
    from ser_personal.corpus.table import Row

_BLANK = frozenset({"", "nan"})


@dataclass(frozen=True, eq=False)
class PredictionTable:
    """A table whose rows are utterances.

    Attributes:
        utterance_ids: (utterances,).
        splits: (utterances,), canonical names.
        attributes: those it holds.
        predicted: its predictions and labels, NaN where it has none, with the utterances' vectors.
    """

    utterance_ids: tuple[str, ...]
    splits: tuple[str, ...]
    attributes: tuple[str, ...]
    predicted: PredictedSet

    def part(self, split: str) -> PredictionTable:
        """The rows of one split."""
        rows = np.array([name == split for name in self.splits], dtype=bool)
        return PredictionTable(
            utterance_ids=tuple(name for name, wanted in zip(self.utterance_ids, rows, strict=True) if wanted),
            splits=tuple(name for name in self.splits if name == split),
            attributes=self.attributes,
            predicted=self.predicted.part(rows),
        )


def read_predictions(
    path: Path, vectors: Vectors, *, named_by: Literal["raw", "label"], default_split: str
) -> PredictionTable:
    """Read columns utterance, speaker, split, ATTRIBUTE_raw and ATTRIBUTE_label; others are ignored.

    Args:
        path: the table; a blank speaker is unknown, a blank label missing.
        vectors: utterance -> vector.
        named_by: which columns it must have, and none of them blank where they are predictions: they name the
            attributes.
        default_split: of rows that name none.

    Raises:
        UserError: the table can't be read, lacks columns, lists an utterance twice, holds a cell that is no finite
            number, or an utterance has no vector.
    """
    rows = read_csv_rows(path, required=("utterance", "speaker"), filled=("utterance",))
    end = f"_{named_by}"
    attributes = tuple(column.removesuffix(end) for column in rows[0] if column.endswith(end))
    if not attributes:
        raise UserError(
            f"no column whose name ends in {end} (found: {', '.join(rows[0])})",
            where=path,
            remedy=f"Name the columns by attribute, such as arousal{end}",
        )
    utterance_ids = tuple(row["utterance"] for row in rows)
    name, times = Counter(utterance_ids).most_common(1)[0]
    if times > 1:
        raise UserError(f"lists utterance {name} {times} times", where=path, remedy="Keep one of the rows")
    missing = next((name for name in utterance_ids if name not in vectors), None)
    if missing is not None:
        raise UserError(
            f"utterance {missing} has no vector", where=path, remedy="Give a vector for each row, by the same name"
        )
    return PredictionTable(
        utterance_ids=utterance_ids,
        splits=tuple(canonical_split(row.get("split") or default_split) for row in rows),
        attributes=attributes,
        predicted=PredictedSet(
            predictions=_numbers(rows, [f"{name}_raw" for name in attributes], path, filled=named_by == "raw"),
            speaker_ids=tuple(known(row["speaker"]) for row in rows),
            pooled=np.stack([vectors[name] for name in utterance_ids]),
            labels=_numbers(rows, [f"{name}_label" for name in attributes], path, filled=False),
        ),
    )


def _numbers(rows: Sequence[Row], columns: Sequence[str], path: Path, *, filled: bool) -> NDArray[np.float64]:
    numbers = np.full((len(rows), len(columns)), math.nan)
    for place, row in enumerate(rows):
        for number, column in enumerate(columns):
            cell = row.get(column, "")
            if not filled and cell.lower() in _BLANK:
                continue
            numbers[place, number] = _number(cell)
            if not math.isfinite(numbers[place, number]):
                raise UserError(
                    f"{column} of utterance {row['utterance']} is {cell!r}, not a finite number",
                    where=path,
                    remedy="Write a number; only a missing label may be blank",
                )
    return numbers


def _number(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return math.nan
