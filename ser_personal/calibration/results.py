"""predictions.csv, metrics.json and the table on the screen: what a calibrated test leaves behind."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from ser_personal.files import write_whole
from ser_personal.finetune.scores import as_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    import pandas as pd
    from numpy.typing import NDArray
    from rich.table import Table

    from ser_personal.calibration.collect import CollectedSet
    from ser_personal.calibration.table import CalibrationRow
    from ser_personal.finetune.scores import AttributeScores
    from ser_personal.types import Utterance

LEGEND = (
    "raw: uncalibrated. mu, sigma, both: PLDC by mean shift, deviation scale, both. Controls: affine, one map for "
    "everyone, fitted on validation speakers; population, k = all speakers; random_speakers, k at random. Ours, chosen "
    "on validation speakers: pldc_selected, a variant of PLDC or none; posterior, by voice and predictions together. "
    "own_statistics reads the test labels: an oracle, never a result."
)


def predictions_frame(
    collected: CollectedSet,
    calibrated: NDArray[Any] | None,
    attributes: Sequence[str],
    utterances: Sequence[Utterance],
) -> pd.DataFrame:
    """One row an utterance: labels, raw and, if given, calibrated predictions, and at the end what the corpus says."""
    columns = {}
    for column, attribute in enumerate(attributes):
        columns[f"{attribute}_label"] = collected.predicted.labels[:, column]
        columns[f"{attribute}_raw"] = collected.predicted.predictions[:, column]
        if calibrated is not None:
            columns[f"{attribute}_calibrated"] = calibrated[:, column]
    return _frame([utterances[index] for index in collected.indices], columns)


def emotion_frame(collected: CollectedSet, emotions: Sequence[str], utterances: Sequence[Utterance]) -> pd.DataFrame:
    """One row an utterance: the likeliest emotion, the probability of each, and at the end what the corpus says."""
    probabilities = collected.predicted.predictions
    columns: dict[str, Any] = {"predicted": [emotions[place] for place in probabilities.argmax(1)]}
    columns |= {f"{emotion}_probability": probabilities[:, place] for place, emotion in enumerate(emotions)}
    return _frame([utterances[index] for index in collected.indices], columns)


def _frame(rows: Sequence[Utterance], columns: dict[str, Any]) -> pd.DataFrame:
    import pandas as pd

    frame = pd.DataFrame(
        {
            "utterance": [row.utterance_id for row in rows],
            "speaker": [row.speaker_id for row in rows],
            "split": [row.split for row in rows],
            **columns,
        }
    )
    for name in ("gender", "seconds", "emotion"):
        frame[name] = [getattr(row, name) for row in rows]
    return frame


def rows_as_json(rows: Sequence[CalibrationRow]) -> dict[str, Any]:
    """Row name -> whether it is an oracle, and attribute -> scores."""
    return {row.name: {"is_oracle": row.is_oracle, "attributes": as_json(row.scores)} for row in rows}


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write JSON, the whole file or nothing."""
    write_whole(path, f"{json.dumps(content, indent=2, allow_nan=False)}\n".encode())


def show(title: str, rows: Sequence[CalibrationRow], legend: str = "") -> None:
    """Print O-CCC and A-CCC, with its deviation over speakers, of each row and attribute, and what the rows are."""
    from rich.console import Console

    table = score_table(title, list(rows[0].scores))
    for row in rows:
        table.add_row(row.name, *cells(row.scores.values()), style="dim" if row.is_oracle else None)
    console = Console()
    console.print(table)
    counted = sorted({scores.speakers for scores in rows[0].scores.values()})
    console.print(f"A-CCC over {' or '.join(map(str, counted))} speakers. {legend}", style="dim")


def score_table(title: str, attributes: Sequence[str]) -> Table:
    """Make a table for O-CCC and A-CCC of each attribute, of which three fit into 80 columns."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(title), title_justify="left", box=box.SIMPLE, show_edge=False, padding=0)
    table.add_column("", no_wrap=True)
    for attribute in attributes:
        table.add_column(f"{escape(attribute)}\nO-CCC", justify="right", no_wrap=True)
        table.add_column("\nA-CCC (std)", justify="right", no_wrap=True)
    return table


def cells(of_attributes: Iterable[AttributeScores]) -> list[str]:
    """Format scores: O-CCC, then A-CCC and its deviation, attribute by attribute."""
    formatted: list[str] = []
    for scores in of_attributes:
        formatted += [points(scores.overall_ccc), f"{points(scores.average_ccc)} ({points(scores.average_ccc_std)})"]
    return formatted


def points(value: float) -> str:
    """Format a score as papers do, .734; a dash where it is undefined."""
    return "-" if math.isnan(value) else f"{value:.3f}".replace("0.", ".", 1)
