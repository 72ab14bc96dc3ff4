"""A new speaker's utterances, calibrated by what was heard of the speaker before them: a pure function of predictions.

Every calibrator here moves and scales the predictions of one speaker, so what it makes of the utterances it has heard
is a line, from predictions as they came to predictions as they become. That line is drawn through the first utterances
and applied to the last ones, which no calibrator sees.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ser_personal.calibration.controls import own_statistics
from ser_personal.calibration.pldc import PLDC, PLDCSettings
from ser_personal.calibration.table import PredictedSet, standard_calibrators
from ser_personal.errors import UserError
from ser_personal.scores import rows_by_speaker
from ser_personal.speakers.bank import SpeakerBank
from ser_personal.types import ATTRIBUTES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fold_predictions import Fold
    from numpy.typing import NDArray

    from ser_personal.calibration.controls import Calibrator

HEARD = (0, 10, 20, 40)
EVALUATED = 20
ORACLE = "own_statistics"


@dataclass(frozen=True, eq=False)
class Enrolled:
    """The last utterances of some speakers, calibrated after each number of utterances heard.

    Attributes:
        speaker_ids: (speakers,).
        labels: (orders, speakers, utterances, attributes), label points.
        predictions: calibrator -> (heard, orders, speakers, utterances, attributes), label points.
    """

    speaker_ids: tuple[str, ...]
    labels: NDArray[np.float64]
    predictions: dict[str, NDArray[np.float64]]


class Line(NamedTuple):
    """What a calibrator does to one speaker.

    Attributes:
        slope: (attributes,).
        intercept: (attributes,), label points.
    """

    slope: NDArray[np.float64]
    intercept: NDArray[np.float64]

    @classmethod
    def through(cls, before: NDArray[np.float64], after: NDArray[np.float64]) -> Line:
        """The line on which (utterances, attributes) predictions before and after a calibration lie."""
        deviations = before - before.mean(axis=0)
        squares = (deviations**2).sum(axis=0)
        slope = np.where(squares > 0, (deviations * after).sum(axis=0) / np.where(squares > 0, squares, 1.0), 1.0)
        line = cls(slope, after.mean(axis=0) - slope * before.mean(axis=0))
        assert np.allclose(line(before), after, atol=1e-6), "a calibrator that is no line"
        return line

    def __call__(self, predictions: NDArray[np.float64]) -> NDArray[np.float64]:
        """Predictions (utterances, attributes) on the line."""
        return self.slope * predictions + self.intercept


def calibrators_of(fold: Fold, orders: int) -> tuple[PLDC, dict[str, Calibrator]]:
    """PLDC by the fold's training speakers, and the rows of every `ser test`."""
    train = fold["train"]
    bank = SpeakerBank.from_utterances(train.speaker_ids, train.pooled, train.labels, ATTRIBUTES)
    pldc = PLDC(bank, ATTRIBUTES, PLDCSettings(shift_mean=True))
    return pldc, standard_calibrators(pldc, fold["validation"], draws=orders)


def enrol(told: PredictedSet, pldc: PLDC, calibrators: Mapping[str, Calibrator], orders: int) -> Enrolled:
    """Calibrate the last utterances of each speaker, in several random orders of time.

    With nothing heard, a speaker is an unknown one.

    Args:
        told: predictions of the speakers; utterances without all labels are left out.
        pldc: attributes and settings of the oracle.
        calibrators: row name -> calibrator; where chance takes part, one draw an order.
        orders: how many orders of time; equal numbers give equal orders.

    Raises:
        UserError: a speaker has too few labelled utterances.
    """
    told = told.part(np.asarray(np.isfinite(told.labels).all(axis=1)))
    rows_of = rows_by_speaker(told.speaker_ids)
    for speaker, rows in rows_of.items():
        if len(rows) < HEARD[-1] + EVALUATED:
            what = f"{len(rows)} labelled utterances, and {HEARD[-1] + EVALUATED} are heard and evaluated"
            raise UserError(what, where=f"speaker {speaker}", remedy="Leave the speaker out of the table")
    shape = (orders, len(rows_of), EVALUATED, len(ATTRIBUTES))
    labels = np.empty(shape)
    predictions = {name: np.empty((len(HEARD), *shape)) for name in [*calibrators, ORACLE]}
    for order in range(orders):
        in_time = [
            np.random.default_rng([order, *speaker.encode()]).permutation(rows) for speaker, rows in rows_of.items()
        ]
        for number, rows in enumerate(in_time):
            labels[order, number] = told.labels[rows[-EVALUATED:]]
        for stage, heard in enumerate(HEARD):
            lines = _lines(told, [rows[:heard] for rows in in_time], pldc, calibrators, order)
            for name, of_speaker in lines.items():
                for number, rows in enumerate(in_time):
                    last = told.predictions[rows[-EVALUATED:]]
                    predictions[name][stage, order, number] = of_speaker[number](last)
    return Enrolled(tuple(rows_of), labels, predictions)


def joined(parts: Sequence[Enrolled]) -> Enrolled:
    """The speakers of several folds side by side."""
    return Enrolled(
        speaker_ids=tuple(speaker for part in parts for speaker in part.speaker_ids),
        labels=np.concatenate([part.labels for part in parts], axis=1),
        predictions={
            name: np.concatenate([part.predictions[name] for part in parts], axis=2) for name in parts[0].predictions
        },
    )


def _lines(
    told: PredictedSet,
    heard: Sequence[NDArray[np.int64]],
    pldc: PLDC,
    calibrators: Mapping[str, Calibrator],
    order: int,
) -> dict[str, list[Line]]:
    """Calibrator -> a line a speaker, by the utterances heard of each."""
    nothing = len(heard[0]) == 0
    rows = np.arange(len(told.speaker_ids)) if nothing else np.concatenate(heard)
    before, pooled, labels = told.predictions[rows], told.pooled[rows], told.labels[rows]
    speakers = [None if nothing else told.speaker_ids[row] for row in rows]
    after = {name: calibrator(before, speakers, pooled) for name, calibrator in calibrators.items()}
    after[ORACLE] = before if nothing else own_statistics(pldc, before, speakers, pooled, labels)
    ends = np.cumsum([len(one) for one in heard])[:-1]
    lines = {}
    for name, calibrated in after.items():
        drawn = calibrated[order] if calibrated.ndim == 3 else calibrated
        if nothing:
            lines[name] = [Line.through(before, drawn)] * len(heard)
        else:
            pairs = zip(np.split(before, ends), np.split(drawn, ends), strict=True)
            lines[name] = [Line.through(*pair) for pair in pairs]
    return lines
