"""How far each test speaker lies from the training set, in features and in labels (the paper's shift analysis).

These aren't the shifts of a speaker's mean and standard deviation by which PLDC calibrates: see pldc.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import nan

import numpy as np

from ser_personal.calibration.pldc import PLDCSettings, label_statistics
from ser_personal.scores import Moments, Values, rows_by_speaker
from ser_personal.speakers.bank import SpeakerBank


@dataclass(frozen=True)
class SpeakerShift:
    """KL(a speaker || the training set), nats, NaN where undefined; `feature` is the mean of its dimensions'."""

    feature: float
    label: dict[str, float]


def gaussian_kl(values: Values, training_mean: Values, training_std: Values) -> Values:
    """KL(N(a speaker) || N(training)) of each dimension by itself, (dim,), nats, of one speaker's values (n, dim).

    The speaker's variance is drawn towards the training set's, which counts as one more utterance (ours): that
    of a few utterances comes out too small, and of equal ones is 0, which would be infinitely far from everything.
    NaN where the speaker has no value or the training set is constant.
    """
    own = Moments.of(values)
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = (own.m2 + training_std**2) / (own.count + 1) / training_std**2
        distance = (own.mean - training_mean) / training_std
        divergence = 0.5 * (ratio + distance**2 - 1 - np.log(ratio))
    return np.where((own.count > 0) & (training_std > 0), divergence, nan)


def speaker_shifts(
    speaker_ids: Sequence[str | None], pooled: Values, labels: Values, bank: SpeakerBank, attributes: Sequence[str]
) -> dict[str, SpeakerShift]:
    """The shifts of every known speaker, from `pooled` (utterances, dim) and `labels` (utterances, attributes).

    Both are KL divergences of Gaussians, which the paper leaves open: of `pooled` with a diagonal covariance, averaged
    over its dimensions so that encoders of other widths compare, and of each attribute's labels.
    """
    columns = [bank.attributes.index(attribute) for attribute in attributes]
    of_training = label_statistics(bank, np.arange(len(bank.speaker_ids)), columns, PLDCSettings(statistics="pooled"))
    shifts = {}
    for speaker, rows in rows_by_speaker(speaker_ids).items():
        feature = gaussian_kl(pooled[rows], bank.training_mean, bank.training_std)
        defined = feature[~np.isnan(feature)]
        label = dict(zip(attributes, gaussian_kl(labels[rows], *of_training).tolist(), strict=True))
        shifts[speaker] = SpeakerShift(float(defined.mean()) if len(defined) else nan, label)
    return shifts


def pearson(x: Values, y: Values, weights: Values) -> Values:
    """Pearson correlation of x and y (n,), each pair taken as often as weights (draws, n) say; -> (draws,).

    NaN where one of them is constant, or there are fewer than three pairs.
    """
    if len(x) < 3:
        return np.full(len(weights), nan)
    # constants are exactly constant only where no rounded mean is subtracted from them
    x, y = x - x[0], y - y[0]
    total = weights.sum(axis=1)
    mean_x, mean_y = weights @ x / total, weights @ y / total
    off_x, off_y = x - mean_x[:, None], y - mean_y[:, None]
    spread_x, spread_y = (weights * off_x**2).sum(axis=1), (weights * off_y**2).sum(axis=1)
    together = (weights * off_x * off_y).sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(together / np.sqrt(spread_x * spread_y))
