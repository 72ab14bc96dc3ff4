"""Another method in the comparison: its predictions, on the utterances that the runs were tested on."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ser_personal.calibration.command import require_on_scale
from ser_personal.calibration.table import CalibrationRow, speaker_moments
from ser_personal.comparison.runs import ComparedRun
from ser_personal.corpus.splits import first_few
from ser_personal.corpus.table import read_csv_rows
from ser_personal.errors import UserError
from ser_personal.evaluation.run_files import PREDICTIONS
from ser_personal.scores import score
from ser_personal.types import ATTRIBUTES

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd


def added_run(argument: str, runs: Sequence[ComparedRun]) -> ComparedRun:
    """Read another method's predictions of the utterances that the runs were tested on.

    Args:
        argument: NAME=FILE; the file has a column utterance, and one for each attribute, called as it is or with _raw.
        runs: whose predictions.csv have the labels.
    """
    import pandas as pd

    name, equals, file = argument.partition("=")
    if not (name and equals and file):
        raise UserError("is no NAME=FILE", where=f"--add {argument}", remedy='Write it as in --add "mine=mine.csv"')
    if name in {run.recipe for run in runs}:
        raise UserError("a run has this name", where=f"--add {argument}", remedy=f"Choose another, such as my_{name}")
    tested = _tested_utterances(runs)
    path = Path(file)
    rows = read_csv_rows(path, required=("utterance",), filled=("utterance",))
    listed = Counter(row["utterance"] for row in rows)
    twice, missing = [one for one, times in listed.items() if times > 1], [*(set(tested["utterance"]) - listed.keys())]
    others = [*(listed.keys() - set(tested["utterance"]))]
    for what, found, remedy in (
        ("more than once", twice, "Keep one row of each"),
        ("that no run was tested on", others, "Leave them out"),
    ):
        if found:
            raise UserError(f"lists {len(found)} utterances {what}: {first_few(found)}", where=path, remedy=remedy)
    if missing:
        what = f"lacks {len(missing)} of {len(tested)} utterances that the runs were tested on: {first_few(missing)}"
        raise UserError(what, where=path, remedy="Predict those, too, or compare runs on the utterances that it has")
    attributes = [one for one in ATTRIBUTES if f"{one}_label" in tested]
    column_of = {one: next((name for name in (one, f"{one}_raw") if name in rows[0]), None) for one in attributes}
    predicted = {one: column for one, column in column_of.items() if column is not None}
    if not predicted:
        what = f"has no column of predictions (found: {', '.join(rows[0])})"
        raise UserError(what, where=path, remedy=f"Name it by the attribute, such as {attributes[0]}")
    row_of = {row["utterance"]: row for row in rows}
    scales = [run.metrics["scale"] for run in runs if "scale" in run.metrics]
    moments = []
    for split, part in tested.groupby("split", sort=False):
        values = np.array(
            [[_number(row_of[one], each, path) for each in predicted.values()] for one in part["utterance"]]
        )
        if scales:
            require_on_scale(values, "predictions", list(predicted), scales[0], path)
        labels = part[[f"{one}_label" for one in predicted]].to_numpy(dtype=np.float64)
        speakers = [speaker or None for speaker in part["speaker"]]
        scores = score(values, labels, speakers, list(predicted))
        row = CalibrationRow("raw", scores, is_oracle=False, predictions=values[None])
        moments.append(speaker_moments(str(split), [row], labels, speakers))
    return ComparedRun(name, None, pd.concat(moments), ())


def _number(row: dict[str, str], column: str, path: Path) -> float:
    try:
        value = float(row[column])
    except ValueError:
        value = np.nan
    if not np.isfinite(value):
        where = f"{path}, utterance {row['utterance']}"
        raise UserError(f"{column} is {row[column]!r}, no finite number", where=where, remedy="Give a prediction")
    return value


def _tested_utterances(runs: Sequence[ComparedRun]) -> pd.DataFrame:
    """Utterance, speaker, split and labels of all that the runs were tested on."""
    import pandas as pd

    tables = [
        pd.read_csv(
            run.folder / PREDICTIONS, dtype={"utterance": str, "speaker": str}, keep_default_na=False, na_values=[""]
        )
        for run in runs
        if run.folder is not None and (run.folder / PREDICTIONS).is_file()
    ]
    if not tables:
        what = f"no run has a {PREDICTIONS}, which names the utterances"
        raise UserError(what, where="--add", remedy="Run `ser test` again, and compare its folder")
    table = pd.concat(tables).drop_duplicates(["split", "utterance"])
    table["speaker"] = table["speaker"].fillna("")
    return table
