"""A column of the corpus beside the predictions, by utterance or by speaker."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from ser_personal.corpus.table import Row, known, read_csv_rows
from ser_personal.errors import UserError
from ser_personal.pseudonyms import pseudonym

if TYPE_CHECKING:
    from collections.abc import Callable

    import pandas as pd

# column of the table -> what it says of an utterance that it names; CSV corpora and MSP-Podcast
_UTTERANCE_KEYS: dict[str, Callable[[str], str]] = {
    "utterance": str,
    "id": str,
    "path": lambda cell: str(PurePosixPath(cell).with_suffix("")),
    "FileName": lambda cell: PurePosixPath(cell).stem,
}
_SPEAKER_KEYS = ("speaker", "SpkrID")


def column_of(utterances: pd.DataFrame, column: str, table: str | None, key: bytes | None = None) -> list[str | None]:
    """Look a column up for each utterance, None where it is blank.

    Args:
        utterances: rows of predictions.csv.
        column: of the table.
        table: a CSV with a row an utterance (`utterance`, `id`, `path` or `FileName`) or a speaker (`speaker` or
            `SpkrID`); predictions.csv itself if None.
        key: of the pseudonyms in `utterances`, None where they have ids; the table has ids in either case.

    Raises:
        UserError: the table has no such column, no column that names utterances or speakers, or names none of these.
    """
    if table is None:
        if column not in utterances.columns:
            raise UserError(
                f"no column {column} in predictions.csv",
                where="--by",
                remedy=f"Give the table that has it, --table corpus.csv, or one of {', '.join(utterances.columns)}",
            )
        present = utterances[column].notna()
        return [known(str(cell)) if there else None for cell, there in zip(utterances[column], present, strict=True)]
    rows = read_csv_rows(Path(table), required=(column,))
    if key is not None:
        rows = [_under_pseudonyms(row, key) for row in rows]
    value_of, ids = _by_utterance(rows, column, utterances) or _by_speaker(rows, column, utterances, table)
    if not set(value_of) & set(ids):
        raise UserError(
            "names none of the run's utterances or speakers",
            where=table,
            remedy="Give the table of the corpus that was tested, with its own ids",
        )
    return [known(value_of.get(id_, "")) for id_ in ids]


def _by_utterance(rows: list[Row], column: str, utterances: pd.DataFrame) -> tuple[dict[str, str], list[str]] | None:
    key = next((name for name in _UTTERANCE_KEYS if name in rows[0]), None)
    if key is None:
        return None
    return {_UTTERANCE_KEYS[key](row[key]): row[column] for row in rows}, list(utterances["utterance"])


def _by_speaker(rows: list[Row], column: str, utterances: pd.DataFrame, table: str) -> tuple[dict[str, str], list[str]]:
    key = next((name for name in _SPEAKER_KEYS if name in rows[0]), None)
    if key is None:
        raise UserError(
            "names neither utterances nor speakers",
            where=table,
            remedy=f"Give it one of the columns {', '.join([*_UTTERANCE_KEYS, *_SPEAKER_KEYS])}",
        )
    return {row[key]: row[column] for row in rows}, [speaker or "" for speaker in utterances["speaker"]]


def _under_pseudonyms(row: Row, key: bytes) -> Row:
    """Rename the speaker and the utterance in every column that names them."""
    speakers = {name: pseudonym(key, row[name]) for name in _SPEAKER_KEYS if known(row.get(name, ""))}
    utterances = {
        name: pseudonym(key, id_of(row[name]), "utterance")
        for name, id_of in _UTTERANCE_KEYS.items()
        if known(row.get(name, ""))
    }
    return {**row, **speakers, **utterances}
