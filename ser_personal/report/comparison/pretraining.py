"""How well a study's pre-trainings predict masked frames: the paper's ablation of fusion has their loss."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

from ser_personal.report.comparison.cells import markdown_table
from ser_personal.report.comparison.run_record import PretrainingScores
from ser_personal.report.words import decimal

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

    from ser_personal.report.comparison.compared_runs import ComparedRun


@dataclass(frozen=True)
class PretrainingRow:
    """One pre-training step of a study.

    Attributes:
        step: its name.
        runs: how many were averaged, of all seeds and folds.
        scores: their mean.
    """

    step: str
    runs: int
    scores: PretrainingScores


def pretraining_rows(runs: Sequence[ComparedRun]) -> list[PretrainingRow]:
    """Average the scores of each pre-training that the runs used."""
    found: dict[str, list[PretrainingScores]] = {}
    for record in dict.fromkeys(record for run in runs for record in run.needs):
        if record.pretraining is not None:
            found.setdefault(record.name, []).append(record.pretraining)
    return [PretrainingRow(step, len(scores), _mean(scores)) for step, scores in found.items()]


def _mean(scores: Sequence[PretrainingScores]) -> PretrainingScores:
    def mean(values: Sequence[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return float(np.mean(known)) if len(known) == len(values) else None

    return PretrainingScores(
        val_loss=float(np.mean([each.val_loss for each in scores])),
        val_accuracy=float(np.mean([each.val_accuracy for each in scores])),
        val_loss_unseen_speakers=mean([each.val_loss_unseen_speakers for each in scores]),
        val_accuracy_unseen_speakers=mean([each.val_accuracy_unseen_speakers for each in scores]),
    )


def pretraining_section(rows: Sequence[PretrainingRow]) -> str:
    """Write the page's section."""
    headings = ["pre-training", "runs", "loss", "accuracy", "loss, unseen speakers", "accuracy, unseen speakers"]
    cells = [
        [row.step, str(row.runs), *("-" if value is None else decimal(value) for value in asdict(row.scores).values())]
        for row in rows
    ]
    note = (
        "Of the checkpoint that each pre-training kept: cross-entropy in nats a masked frame, and the share of masked "
        "frames whose cluster is found, on held-out utterances of pre-training speakers, and apart on speakers that it "
        "never heard. Losses compare only where the pseudo-labels are the same."
    )
    return "\n" + "\n\n".join(["## Pre-training", markdown_table(headings, cells), note]) + "\n"


def flat_pretraining(rows: Sequence[PretrainingRow]) -> pd.DataFrame:
    """One line a pre-training step; blank where undefined."""
    import pandas as pd

    return pd.DataFrame({"step": row.step, "runs": row.runs, **asdict(row.scores)} for row in rows)
