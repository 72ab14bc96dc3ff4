"""PLDC's equation, and the moments of predictions and labels that it takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ser_personal.speakers.bank import SpeakerBank

Statistics = Literal["average", "pooled"]

_FLOAT32_ROUNDING = 1e-6


class PredictionMoments(NamedTuple):
    """What PLDC needs to know of one speaker's own predictions.

    Attributes:
        mu: (attributes,), label points, mean.
        sigma: (attributes,), label points, population deviation.
        magnitude: (attributes,), label points, the greatest absolute prediction.
    """

    mu: NDArray[np.float64]
    sigma: NDArray[np.float64]
    magnitude: NDArray[np.float64]


def take_on(
    predictions: NDArray[np.float64],
    own: PredictionMoments,
    mu_bar: NDArray[np.float64],
    sigma_bar: NDArray[np.float64],
    *,
    shift_mean: bool,
    scale_std: bool,
    limits: tuple[float, float] | None,
) -> NDArray[np.float64]:
    """The equation of `calibrate` for some predictions (..., attributes) of one speaker.

    Args:
        predictions: label points.
        own: moments of the speaker's predictions.
        mu_bar: (attributes,), label points, the mean to take on; predictions stay raw where it is NaN.
        sigma_bar: (attributes,), label points, the deviation to take on.
        shift_mean: replace the mean.
        scale_std: replace the deviation.
        limits: least and greatest value; None for no limits.
    """
    scalable = scale_std & (own.sigma > _FLOAT32_ROUNDING * own.magnitude)
    ratio = np.where(scalable, sigma_bar / np.where(scalable, own.sigma, 1.0), 1.0)
    shifted = (predictions - own.mu) * ratio + (mu_bar if shift_mean else own.mu)
    if limits is not None:
        shifted = shifted.clip(*limits)
    return np.where(np.isnan(mu_bar), predictions, shifted)


def label_statistics(
    bank: SpeakerBank, rows: NDArray[np.int64], columns: Sequence[int], statistics: Statistics
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and deviation (attributes,) of the labels of some bank speakers, NaN where none has any."""
    count = bank.count[rows][:, columns]
    mean, std = (np.where(count > 0, moment[rows][:, columns], 0.0) for moment in (bank.label_mean, bank.label_std))
    weights = (count > 0).astype(np.float64) if statistics == "average" else count.astype(np.float64)
    total = np.where(weights.sum(axis=0) > 0, weights.sum(axis=0), np.nan)
    mu_bar = (weights * mean).sum(axis=0) / total
    if statistics == "average":
        return mu_bar, (weights * std).sum(axis=0) / total
    return mu_bar, np.sqrt((weights * (std**2 + (mean - mu_bar) ** 2)).sum(axis=0) / total)
