"""O-CCC, A-CCC and the coverage of intervals of enrolled speakers, and how far they can be trusted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ser_personal.calibration.conformal import ConformalTable
from ser_personal.scores import ccc_from_sums
from ser_personal.types import ATTRIBUTES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from enrolment import Enrolled
    from numpy.typing import NDArray

RESAMPLES = 5000
LEVELS = (2.5, 97.5)


@dataclass(frozen=True, eq=False)
class Gain:
    """One calibrator's scores, and what it gains over another on the same utterances.

    Attributes:
        scores: (2, heard, attributes), O-CCC and A-CCC, means over the orders of time.
        gain: (2, heard, attributes), over the other's.
        low: (2, heard, attributes), lower end of the gain's 95 % interval.
        high: (2, heard, attributes), upper end.
    """

    scores: NDArray[np.float64]
    gain: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


def gains(enrolled: Enrolled, over: str = "raw") -> dict[str, Gain]:
    """Calibrator -> gain over the calibrator named `over`.

    The percentile bootstrap draws speakers with all their orders of time, the same for every calibrator. Models and
    folds stay as they are: an interval is for other speakers, not for another training.
    """
    number = len(enrolled.speaker_ids)
    everyone = np.full((1, number), 1 / number)
    drawn = np.random.default_rng(0).multinomial(number, everyone[0], size=RESAMPLES) / number
    scores, resampled = (
        {name: weighted_scores(of, enrolled.labels, weights) for name, of in enrolled.predictions.items()}
        for weights in (everyone, drawn)
    )
    result = {}
    for name in scores:
        low, high = np.percentile(resampled[name] - resampled[over], LEVELS, axis=0)
        result[name] = Gain(scores[name][0], (scores[name] - scores[over])[0], low, high)
    return result


def alike(measured: Mapping[str, Gain], name: str) -> list[str]:
    """The calibrators whose scores and gains equal those of `name`, itself included."""
    one = measured[name]
    return [
        other
        for other, gain in measured.items()
        if np.allclose(gain.scores, one.scores) and np.allclose(gain.gain, one.gain)
    ]


def weighted_scores(
    predictions: NDArray[np.float64], labels: NDArray[np.float64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """O-CCC and A-CCC, (draws, 2, heard, attributes), with weights (draws, speakers) that sum to 1 over speakers.

    `score` for weighted speakers of equally many utterances: O-CCC is made of the speakers' moments, not of their
    utterances, so thousands of draws take seconds.
    """
    center = labels.mean()
    x, y = predictions - center, np.broadcast_to(labels - center, predictions.shape)
    # (heard, orders, speakers, attributes) each
    moments = [values.mean(axis=3) for values in (x, y, x * x, y * y, x * y)]
    one = np.ones(())
    of_speaker = ccc_from_sums(one, *moments)
    overall = ccc_from_sums(one, *(np.einsum("ds,hosa->dhoa", weights, moment, optimize=True) for moment in moments))
    average = np.einsum("ds,hosa->dhoa", weights, of_speaker, optimize=True)
    return np.stack([overall.mean(axis=2), average.mean(axis=2)], axis=1)


@dataclass(frozen=True, eq=False)
class Coverage:
    """How often intervals hold the label.

    Attributes:
        shares: (speakers, attributes), of each speaker's utterances, over all orders of time.
        widths: (attributes,), label points, mean of the intervals' widths within the label scale.
    """

    shares: NDArray[np.float64]
    widths: NDArray[np.float64]


def coverage(
    folds: Sequence[Enrolled],
    measured_on: Sequence[Enrolled],
    name: str,
    stage: int,
    *,
    wanted: float,
    scale: tuple[float, float],
) -> Coverage:
    """The coverage of conformal intervals for the test speakers of all folds.

    Args:
        folds: the test speakers of each.
        measured_on: the speakers whose errors give each fold's half-widths; none of them is in its test set.
        name: of the calibrator.
        stage: position in `HEARD`.
        wanted: coverage to ask for.
        scale: least and greatest label.
    """
    shares, widths = [], []
    for tested, others in zip(folds, measured_on, strict=True):
        orders = range(len(others.labels))
        half_widths = np.array([_half_widths(others, name, stage, order, wanted) for order in orders])[:, None, None]
        predictions = tested.predictions[name][stage]
        shares.append((np.abs(predictions - tested.labels) <= half_widths).mean(axis=(0, 2)))
        low, high = (predictions - half_widths).clip(*scale), (predictions + half_widths).clip(*scale)
        widths.append((high - low).mean(axis=(0, 1, 2)))
    return Coverage(np.concatenate(shares), np.mean(widths, axis=0))


def _half_widths(enrolled: Enrolled, name: str, stage: int, order: int, wanted: float) -> list[float]:
    predictions, labels = enrolled.predictions[name][stage, order], enrolled.labels[order]
    speakers = np.repeat(enrolled.speaker_ids, labels.shape[1]).tolist()
    shape = (-1, len(ATTRIBUTES))
    table = ConformalTable.fit(predictions.reshape(shape), labels.reshape(shape), speakers, ATTRIBUTES, coverage=wanted)
    return [table.half_width(attribute, 0) for attribute in ATTRIBUTES]
