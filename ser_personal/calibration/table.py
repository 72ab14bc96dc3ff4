"""PLDC, its controls and the oracle, scored side by side.

A calibrator sees predictions, speakers and pooled vectors of the test set. The test set's labels go to the scores and,
by name, to the oracle alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import compress, product
from math import isnan
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ser_personal.calibration.controls import AffineMap, Calibrator, RandomSpeakers, no_controls, own_statistics, raw
from ser_personal.calibration.pldc import PLDC
from ser_personal.calibration.posterior import PosteriorCalibrator
from ser_personal.errors import UserError, counted
from ser_personal.scores import Scores, Values, concordance, mean_scores, rows_by_speaker, score

if TYPE_CHECKING:
    import pandas as pd

KEYS = ("split", "row", "is_oracle", "draw", "attribute", "speaker")
ORACLE = "own_statistics"
MOMENTS = ("prediction_mean", "label_mean", "prediction_variance", "label_variance", "covariance")
LEGEND = {
    "raw": "raw: uncalibrated.",
    "mu": "mu: PLDC of the mean.",
    "sigma": "sigma: PLDC of the standard deviation.",
    "both": "both: PLDC of both.",
    "affine": "affine: control, one map for everyone, fitted on validation speakers.",
    "posterior": "posterior (ours): by speaker vector and predictions, as far as it helps validation speakers.",
    "population": "population: control, k = all speakers.",
    "random_speakers": "random_speakers: control, k at random.",
    ORACLE: "own_statistics reads the test labels: an oracle, never a result.",
}


@dataclass(frozen=True, eq=False)
class PredictedSet:
    """What a fine-tuned model predicts of a set, each utterance once."""

    predictions: Values  # (utterances, attributes), label points
    speaker_ids: tuple[str | None, ...]  # (utterances,), None where unknown
    pooled: Values  # (utterances, dim)
    labels: Values  # (utterances, attributes), label points, NaN where missing

    def part(self, rows: NDArray[np.bool_]) -> PredictedSet:
        """The utterances of some rows, a mask (utterances,)."""
        speakers = tuple(compress(self.speaker_ids, rows))
        return PredictedSet(self.predictions[rows], speakers, self.pooled[rows], self.labels[rows])


@dataclass(frozen=True, eq=False)
class CalibrationRow:
    """One row of the score table."""

    name: str  # one of `LEGEND`, or a caller's own
    scores: Scores  # by attribute; their mean over draws where there are several
    is_oracle: bool  # it read labels of the test set, so it is never a result
    # (draws, utterances, attributes), label points; one draw unless chance takes part; none in a row read from a file
    predictions: Values = field(default_factory=lambda: np.empty((0, 0, 0)))
    is_random: bool = False  # chance takes part, so that no draw by itself is a result


def standard_calibrators(
    pldc: PLDC, validation: PredictedSet | None = None, *, draws: int = 20, seed: int = 0
) -> dict[str, Calibrator]:
    """The rows that every test prints, the oracle aside.

    raw, mu, sigma and both are the paper's. The controls (ours) move the same moments as `pldc`: population has
    k = all, random_speakers k at random. affine and posterior (ours) are fitted on validation speakers. Where labels
    are too few for one of them, or k is all, a printed line says so.
    """

    def variant(**changes: Any) -> PLDC:
        return replace(pldc, settings=replace(pldc.settings, **changes))

    calibrators: dict[str, Calibrator] = {
        "raw": raw,
        "mu": variant(shift_mean=True, scale_std=False),
        "sigma": variant(shift_mean=False, scale_std=True),
        "both": variant(shift_mean=True, scale_std=True),
    }
    if validation is not None:
        if np.isnan(validation.labels).all(axis=0).any():
            print("affine and posterior are left out: an attribute has no label of a validation utterance")
        else:
            calibrators["affine"] = AffineMap.fit(validation.predictions, validation.labels)
            # too few labels; whatever else is wrong with inputs, PLDC refuses
            try:
                calibrators["posterior"] = PosteriorCalibrator(pldc.bank, pldc.attributes).fit(
                    validation.predictions, validation.speaker_ids, validation.pooled, validation.labels
                )
            except UserError as error:
                print(f"posterior is left out: {error.what}")
    if said := no_controls(pldc.settings.k, len(pldc.bank.speaker_ids)):
        print(said)
    calibrators["population"] = variant(k=len(pldc.bank.speaker_ids))
    calibrators["random_speakers"] = RandomSpeakers(pldc, draws, seed)
    return calibrators


def of_other_speakers(validation: PredictedSet, test: PredictedSet, split: str) -> PredictedSet | None:
    """The validation set without the tested speakers, None if none is left: their labels must not be fitted on."""
    # unknown speakers are others, unless it is the same set
    tested = {*test.speaker_ids} - ({None} if split != "validation" else set())
    kept = np.array([speaker_id not in tested for speaker_id in validation.speaker_ids], dtype=bool)
    if not kept.all():
        print(f"{split}: shares speakers with validation, so what is fitted there is fitted on the others, if any")
    return validation.part(kept) if kept.any() else None


def calibration_table(
    test: PredictedSet, pldc: PLDC, calibrators: Mapping[str, Calibrator], *, min_utterances: int = 10
) -> list[CalibrationRow]:
    """Scores of every calibrator on a test set, by name, and of the oracle, by the settings of `pldc`, last."""
    inputs = test.predictions, test.speaker_ids, test.pooled
    predictions = {name: calibrator(*inputs) for name, calibrator in calibrators.items()}
    predictions[ORACLE] = own_statistics(pldc, *inputs, test.labels)
    return [score_row(name, test, each, pldc.attributes, min_utterances) for name, each in predictions.items()]


def score_row(
    name: str, test: PredictedSet, predictions: Values, attributes: Sequence[str], min_utterances: int
) -> CalibrationRow:
    """Score predictions of a test set, (utterances, attributes) or (draws, utterances, attributes), label points."""
    is_random = predictions.ndim == 3
    draws = predictions if is_random else predictions[None]
    scores = [score(draw, test.labels, test.speaker_ids, attributes, min_utterances=min_utterances) for draw in draws]
    return CalibrationRow(name, mean_scores(scores), name == ORACLE, draws, is_random)


def speaker_moments(
    split: str, rows: Sequence[CalibrationRow], labels: Values, speaker_ids: Sequence[str | None]
) -> pd.DataFrame:
    """One line per row of the score table, draw, attribute and known speaker with a label.

    Moments are of ddof 0, over labelled utterances, in label points; `ccc` is the speaker's own, blank
    where undefined. From them O-CCC over any choice of speakers is exact, without the utterances.
    """
    import pandas as pd

    rows_of = rows_by_speaker(speaker_ids)
    lines = []
    for row in rows:
        for (draw, predictions), (column, attribute) in product(enumerate(row.predictions), enumerate(row.scores)):
            for speaker, all_rows in rows_of.items():
                own = all_rows[~np.isnan(labels[all_rows, column])]
                if len(own):
                    x, y = predictions[own, column], labels[own, column]
                    covariance = np.mean((x - x.mean()) * (y - y.mean()))
                    moments = (len(own), x.mean(), y.mean(), x.var(), y.var(), covariance, concordance(x, y))
                    lines.append((split, row.name, row.is_oracle, draw, attribute, speaker, *moments))
    return pd.DataFrame(lines, columns=[*KEYS, "utterances", *MOMENTS, "ccc"])


def print_scores(title: str, rows: Sequence[CalibrationRow], min_utterances: int) -> None:
    """Print O-CCC and A-CCC, with its standard deviation over speakers, of each row and attribute, and a legend."""
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    # three attributes fit into 80 columns
    table = Table(title=escape(title), title_justify="left", box=box.SIMPLE, show_edge=False, padding=0)
    table.add_column("", no_wrap=True)
    for attribute in rows[0].scores:
        table.add_column(f"{escape(attribute)}\nO-CCC", justify="right", no_wrap=True)
        table.add_column("\nA-CCC (std)", justify="right", no_wrap=True)
    for row in rows:
        cells = [row.name]
        for of in row.scores.values():
            cells += [decimal(of.overall_ccc), f"{decimal(of.average_ccc)} ({decimal(of.average_ccc_std)})"]
        table.add_row(*cells, style="dim" if row.is_oracle else None)
    console = Console()
    console.print(table)
    over = dict.fromkeys(counted(scores.speakers, "speaker") for scores in rows[0].scores.values())
    about = f"A-CCC over {' or '.join(over)}, each with at least {min_utterances} labelled utterances."
    legend = [LEGEND[row.name] for row in rows if row.name in LEGEND]
    console.print(" ".join([about, *legend]), style="dim")


def decimal(value: float) -> str:
    """Three decimals without a leading zero, as papers have them, .734; a dash where undefined."""
    return "-" if isnan(value) else re.sub(r"^(-?)0\.", r"\1.", f"{round(value, 3) + 0.0:.3f}")
