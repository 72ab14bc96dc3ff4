"""A speaker's few labels: they correct a calibration, more strongly the more there are (ours)."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Self

import numpy as np

from ser_personal.calibration.controls import AffineMap
from ser_personal.calibration.pldc import FLOAT32_ROUNDING
from ser_personal.errors import UserError
from ser_personal.scores import Moments, Values, rows_by_speaker

PRIOR_SPEAKERS = 4.0
MIN_LABELS = 5
_MIN_VARIANCE = 0.003  # between speakers


@dataclass(frozen=True)
class LabelPrior:
    """What is known of a speaker's labels of one attribute before the first of them.

    That is, how label moments differ from the moments of the calibrated predictions z, over speakers. `shift` and its
    variance are in units of the standard deviation of the speaker's labels.

    Attributes:
        shift: mean of the label mean less that of z.
        shift_variance: its variance.
        scale: the labels' standard deviation over that of z, geometric mean.
        imagined_labels: prior pseudo-count of `scale`, in labels.
        correlation: mean of the correlation of labels and z.
        correlation_variance: its variance.
        deviation: label points, standard deviation of z of an average speaker, for speakers of few utterances.
    """

    shift: float = 0.0
    shift_variance: float = 0.1
    scale: float = 1.0
    imagined_labels: float = 8.0
    correlation: float = 0.5
    correlation_variance: float = 0.05
    deviation: float = 0.75

    def __post_init__(self) -> None:
        positive = (self.shift_variance, self.scale, self.imagined_labels, self.correlation_variance, self.deviation)
        if not (isfinite(self.shift + sum(positive)) and min(positive) > 0 and 0 <= self.correlation < 1):
            remedy = "Give a finite shift, a correlation from 0 to below 1, and positive numbers for the rest"
            raise UserError(f"{self} is out of range", where="labels", remedy=remedy)

    @classmethod
    def default(cls, scale: tuple[float, float] | None) -> Self:
        """The prior where no validation speaker was measured, with labels on some scale."""
        low, high = scale or (1.0, 7.0)
        return cls(deviation=(high - low) / 8)

    @classmethod
    def fit(
        cls,
        calibrated: Values,
        labels: Values,
        speaker_ids: Sequence[str | None],
        scale: tuple[float, float] | None = None,
    ) -> Self:
        """Fit by the method of moments on validation speakers with five labels or more.

        Beside them the default prior of the label scale counts as four speakers, so that few or none give something
        sensible, too. `calibrated` and `labels` are (utterances,), label points, NaN where missing, of speakers whom
        the calibration wasn't fitted on.
        """
        default = cls.default(scale)
        rounding = FLOAT32_ROUNDING * default.deviation
        found: list[tuple[float, ...]] = []
        for rows in rows_by_speaker(speaker_ids).values():
            known = rows[~np.isnan(labels[rows])]
            z, y = Moments.of(calibrated[rows]), Moments.of(labels[known])
            if len(known) >= MIN_LABELS and min(calibrated[known].std(), y.std) > rounding:
                correlation = np.corrcoef(calibrated[known], labels[known])[0, 1]
                selection = correlation * y.std * (calibrated[known].mean() - z.mean) / calibrated[known].std()
                shift = (y.mean - selection - z.mean) / y.std
                found.append((float(shift), float(np.log(y.std / z.std)), float(correlation), float(z.std), len(known)))
        shifts, scales, correlations, deviations, counts = np.reshape(found, (-1, 5)).T

        def mean(values: Values, prior: float) -> float:
            return float((values.sum() + PRIOR_SPEAKERS * prior) / (len(values) + PRIOR_SPEAKERS))

        def variance(values: Values, center: float, sampling: Values | float, prior: float) -> float:
            return max(mean((values - center) ** 2 - sampling / counts, prior), _MIN_VARIANCE)

        shift, log_scale = mean(shifts, default.shift), mean(scales, 0.0)
        correlation = min(max(mean(correlations, default.correlation), 0.0), 0.95)
        unexplained = 1 - correlations**2
        return cls(
            shift,
            variance(shifts, shift, unexplained, default.shift_variance),
            float(np.exp(log_scale)),
            0.5 / variance(scales, log_scale, 0.5, 0.5 / default.imagined_labels),
            correlation,
            variance(correlations, correlation, unexplained**2, default.correlation_variance),
            float(np.sqrt(mean(deviations**2, default.deviation**2))),
        )


def labelled_moments(predictions: Values, labels: Values) -> Moments:
    """Moments (3, attributes) of predictions, labels and their sums, (utterances, attributes), where there are labels.

    The three give the covariance, and are updated and merged like any moments.
    """
    return Moments.of(np.stack([predictions + 0 * labels, labels, predictions + labels], axis=1))


def with_labels(base: AffineMap, own: Moments, labelled: Moments, priors: Sequence[LabelPrior]) -> AffineMap:
    r"""Correct the map that calibrates a speaker by the labels that there are of the speaker's utterances.

    CCC is maximised by matching the labels' moments, not by least squares, so that mean and standard deviation of the
    speaker's labels are estimated from :math:`n` labels of mean :math:`\bar y`, and calibrated predictions z get them.
    By the prior the standard deviation is :math:`d_0 = c \sigma` and the mean :math:`m_0 = \bar z + \delta d` of
    variance :math:`\tau^2 d^2`, with :math:`\bar z, \sigma` the mean and standard deviation of all of the speaker's z.
    Then

    .. math::

        d^2 = \frac{\nu d_0^2 + \sum (y - \bar y)^2}{\nu + (1 - \rho^2) (n - 1) + \rho^2 \sum (u - \bar u)^2} \qquad
        m = m_0 + \frac{n}{n + \kappa} \left(\bar y - \rho d \bar u - m_0\right), \quad
        \kappa = \frac{1 - \rho^2}{\tau^2}

    are the scale of the variance's posterior (scaled inverse :math:`\chi^2`) and the mean's posterior expectation
    (normal). :math:`u = (z - \bar z) / \sigma` of the labelled utterances tells how far their labels lie above the
    average, and apart: they may be the loud ones, or all alike. z becomes :math:`m + d (z - \bar z) / \sigma`.
    Where labels fall as predictions rise, by more than chance and the prior allow, the slope's sign changes.

    Without a label z stays what it is, by `base` (attributes,); with many, this is the speaker's own map to the labels'
    moments. `own` (attributes,) are moments of all of the speaker's raw predictions, `labelled` (3, attributes) those
    of `labelled_moments`; there is a prior for each attribute.
    """
    shift, shift_variance, scale, imagined, correlation, correlation_variance, typical_std = np.array(
        [[*vars(prior).values()] for prior in priors]
    ).T
    count = labelled.count[1]
    center = base.apply(own.mean)
    # a single utterance has no standard deviation, and that of many needs no prior
    prior_weight = 1 / np.maximum(own.count, 1)
    degrees = np.maximum(own.count, 1) - 1 + prior_weight
    prediction_std = np.sqrt((base.slope**2 * own.m2 + prior_weight * typical_std**2) / degrees)
    spread = (base.slope / prediction_std) ** 2 * labelled.m2[0]
    expected = (1 - correlation**2) * np.maximum(count - 1, 0) + correlation**2 * spread
    deviation = np.sqrt((imagined * (scale * prediction_std) ** 2 + labelled.m2[1]) / (imagined + expected))
    above = (base.apply(labelled.mean[0]) - center) / prediction_std
    prior_mean, kappa = center + shift * deviation, (1 - correlation**2) / shift_variance
    mean = prior_mean + count / (count + kappa) * (labelled.mean[1] - correlation * deviation * above - prior_mean)
    # of the correlation, with imagined labels that have the prior's
    prior_labels = (1 - correlation**2) / correlation_variance
    products = base.slope * (labelled.m2[2] - labelled.m2[0] - labelled.m2[1]) / 2 / (prediction_std * deviation)
    precision = spread + prior_labels
    margin = 2 * np.sqrt(precision * (1 - correlation**2))
    sign = np.where(products + correlation * prior_labels < -margin, -1.0, 1.0)
    ratio = sign * deviation / prediction_std
    return AffineMap(
        np.where(count > 0, ratio * base.slope, base.slope),
        np.where(count > 0, mean + ratio * (base.intercept - center), base.intercept),
    )
