"""speaker_moments.csv: what each test speaker adds to every row's scores, enough to resample the speakers later."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ser_personal.files import write_whole
from ser_personal.finetune.scores import concordance, rows_by_speaker

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import pandas as pd
    from numpy.typing import NDArray

    from ser_personal.calibration.table import CalibrationRow

SPEAKER_MOMENTS = "speaker_moments.csv"
MOMENTS = ("prediction_mean", "label_mean", "prediction_variance", "label_variance", "covariance")
KEYS = ("split", "row", "is_oracle", "draw", "attribute", "speaker")


def speaker_moments(
    split: str, rows: Sequence[CalibrationRow], labels: NDArray[np.float64], speaker_ids: Sequence[str | None]
) -> pd.DataFrame:
    """One line a row of the score table, draw, attribute and known speaker with a label.

    Moments are of the population (ddof 0), over labelled utterances, in label points; `ccc` is the speaker's own, blank
    where undefined. From them O-CCC over any choice of speakers is exact, without the utterances.

    Args:
        split: name of the test set.
        rows: of its score table.
        labels: (utterances, attributes), NaN where missing.
        speaker_ids: (utterances,), None where unknown; those can't be resampled and are left out.
    """
    import pandas as pd

    rows_of = rows_by_speaker(speaker_ids)
    lines = []
    for row in rows:
        for draw, predictions in enumerate(row.predictions):
            for column, attribute in enumerate(row.scores):
                for speaker, all_rows in rows_of.items():
                    own = all_rows[~np.isnan(labels[all_rows, column])]
                    if len(own):
                        key = (split, row.name, row.is_oracle, draw, attribute, speaker)
                        lines.append((*key, *_moments(predictions[own, column], labels[own, column])))
    return pd.DataFrame(lines, columns=[*KEYS, "utterances", *MOMENTS, "ccc"])


def _moments(predictions: NDArray[np.float64], labels: NDArray[np.float64]) -> tuple[float, ...]:
    covariance = np.mean((predictions - predictions.mean()) * (labels - labels.mean()))
    moments = (predictions.mean(), labels.mean(), predictions.var(), labels.var(), covariance)
    return (len(labels), *map(float, moments), concordance(predictions, labels))


def write_moments(folder: Path, tables: Sequence[pd.DataFrame]) -> None:
    """Write speaker_moments.csv, of all test sets, to a run's folder."""
    import pandas as pd

    write_whole(folder / SPEAKER_MOMENTS, pd.concat(tables).to_csv(index=False).encode())
