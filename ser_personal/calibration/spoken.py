"""What each utterance is calibrated from: all that its speaker says, or what the speaker has said so far."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray


class Spoken(NamedTuple):
    """Moments over some of a speaker's utterances; a row is a speaker, or an utterance and what it is calibrated from.

    Attributes:
        counts: (rows,), how many utterances.
        means: (rows, columns), over the utterances.
        variances: (rows, columns), population variance over the utterances.
    """

    counts: NDArray[np.float64]
    means: NDArray[np.float64]
    variances: NDArray[np.float64]


def spoken(values: NDArray[np.float64], rows_of: Mapping[str, NDArray[np.int64]], *, causal: bool = False) -> Spoken:
    """The moments that each utterance is calibrated from.

    Args:
        values: (utterances, columns).
        rows_of: speaker -> rows, in the order of time; an utterance that is nobody's has NaN, over 0 utterances.
        causal: take the speaker's utterances up to and including this one, not all of them.
    """
    counts = np.zeros(len(values))
    means, variances = np.full(values.shape, np.nan), np.full(values.shape, np.nan)
    for rows in rows_of.values():
        # deviations from the first, not from 0: equal values must have a variance of exactly 0
        first = values[rows[0]]
        deviations = values[rows] - first
        number = np.arange(1.0, len(rows) + 1)
        sums, squares = deviations.cumsum(axis=0), (deviations**2).cumsum(axis=0)
        if not causal:
            number, sums, squares = number[-1:], sums[-1:], squares[-1:]
        average = sums / number[:, None]
        counts[rows] = number
        means[rows] = first + average
        variances[rows] = np.maximum(squares / number[:, None] - average**2, 0.0)
    return Spoken(counts, means, variances)


def spoken_by(values: NDArray[np.float64], rows_of: Mapping[str, NDArray[np.int64]]) -> Spoken:
    """The moments of (utterances, columns) values over all that each speaker of `rows_of` says, in its order."""
    last = np.array([rows[-1] for rows in rows_of.values()], dtype=np.int64)
    return Spoken(*(moment[last] for moment in spoken(values, rows_of)))
