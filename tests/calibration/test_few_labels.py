from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ser_personal.calibration.controls import AffineMap
from ser_personal.calibration.few_labels import LabelPrior, labelled_moments, with_labels
from ser_personal.scores import Moments

SEEDS = st.integers(0, 10_000)
USUAL = LabelPrior()
PRIOR = LabelPrior(0.2, 0.09, 1.3, 6.0, 0.6, 0.04, 0.7)


def speaker(seed, utterances=30, attributes=2):
    """Raw predictions and labels that follow them, and a calibration of the predictions."""
    rng = np.random.default_rng(seed)
    predictions = rng.normal(3.5, 0.6, (utterances, attributes))
    labels = 4 + 0.8 * (predictions - 3.5) + rng.normal(0, 0.5, predictions.shape)
    return predictions, labels, AffineMap(rng.uniform(0.5, 2, attributes), rng.normal(size=attributes))


def corrected(base, predictions, labels, priors=(PRIOR, USUAL)):
    return with_labels(base, Moments.of(predictions), labelled_moments(predictions, labels), priors)


def assert_equal(one, other, **tolerance):
    np.testing.assert_allclose([*one.slope, *one.intercept], [*other.slope, *other.intercept], **tolerance)


@given(SEEDS, st.integers(1, 12))
def test_mean_and_deviation_are_their_posteriors(seed, number):
    """The mean by numerical integration, of labels y = m + rho d u + noise of variance (1 - rho^2) d^2, d known."""
    predictions, labels, base = speaker(seed, attributes=1)
    labels[number:] = np.nan
    line = corrected(base, predictions, labels, [PRIOR])
    z, y = base.apply(predictions)[:, 0], labels[:number, 0]
    # the deviation of z; the prior's counts for 1 / n of an utterance
    unit = np.sqrt((((z - z.mean()) ** 2).sum() + PRIOR.deviation**2 / len(z)) / (len(z) - 1 + 1 / len(z)))
    deviation = line.slope[0] / base.slope[0] * unit
    means, noise = np.linspace(-10, 20, 30_001), (1 - PRIOR.correlation**2) * deviation**2
    log = -0.5 * ((means - z.mean() - PRIOR.shift * deviation) ** 2) / (PRIOR.shift_variance * deviation**2)
    for prediction, label in zip(z[:number], y, strict=True):
        expected = means + PRIOR.correlation * deviation * (prediction - z.mean()) / unit
        log -= 0.5 * (label - expected) ** 2 / noise
    density = np.exp(log - log.max())
    np.testing.assert_allclose(line.apply(predictions.mean()), np.average(means, weights=density), atol=1e-6)
    # by imagined labels, and the spread that predictions lead to expect
    u = (z[:number] - z[:number].mean()) / unit
    spread = PRIOR.correlation**2 * (u @ u) + (1 - PRIOR.correlation**2) * (number - 1)
    squares = PRIOR.imagined_labels * (PRIOR.scale * unit) ** 2 + ((y - y.mean()) ** 2).sum()
    np.testing.assert_allclose(deviation**2, squares / (PRIOR.imagined_labels + spread))


@given(SEEDS)
def test_without_labels_it_is_the_calibration_itself(seed):
    predictions, labels, base = speaker(seed)
    for none in (labels[:0], np.full_like(labels, np.nan)):
        line = with_labels(base, Moments.of(predictions), labelled_moments(predictions[: len(none)], none), [PRIOR] * 2)
        assert_equal(line, base, rtol=0)


@pytest.mark.parametrize("sign", [1, -1])
def test_many_labels_make_the_speakers_own_map(sign):
    predictions, labels, base = speaker(0, utterances=200_000)
    labels *= sign
    assert_equal(corrected(base, predictions, labels), AffineMap.fit(predictions, labels), rtol=1e-3, atol=1e-3)


def test_a_few_labels_that_fall_as_predictions_rise_are_chance():
    base = AffineMap(np.ones(1), np.zeros(1))
    few, many = (np.linspace(3, 5, number)[:, None] for number in (13, 25))
    assert corrected(base, few, 8 - few, [USUAL]).slope > 0 > corrected(base, many, 8 - many, [USUAL]).slope


@given(SEEDS, st.integers(0, 30))
def test_order_and_parts_and_utterances_without_labels_make_no_difference(seed, cut):
    predictions, labels, base = speaker(seed)
    labels[np.random.default_rng(seed).random(labels.shape) < 0.3] = np.nan
    together = labelled_moments(predictions, labels)
    own, priors = Moments.of(predictions), [PRIOR, USUAL]
    parts = [labelled_moments(predictions[rows], labels[rows]) for rows in (slice(cut, None), slice(cut))]
    known = ~np.isnan(labels)
    alone = [labelled_moments(predictions[known[:, n], n, None], labels[known[:, n], n, None]) for n in range(2)]
    expected = with_labels(base, own, together, priors)
    assert_equal(with_labels(base, own, parts[0].merge(parts[1]), priors), expected, rtol=1e-9)
    for n in range(2):
        line = with_labels(AffineMap(base.slope[[n]], base.intercept[[n]]), own[[n]], alone[n], priors[n : n + 1])
        np.testing.assert_allclose([line.slope, line.intercept], [expected.slope[[n]], expected.intercept[[n]]])


@pytest.mark.parametrize("base", [0.0, 1.0])
def test_one_utterance_alike_predictions_and_a_flat_calibration_give_finite_maps(base):
    for utterances in (1, 5):
        predictions = np.full((utterances, 2), 3.0)
        found = corrected(AffineMap(np.full(2, base), np.full(2, 4.0)), predictions, predictions + 2)
        assert np.isfinite(found.apply(predictions)).all()


def test_a_prior_is_that_of_the_validation_speakers():
    rng = np.random.default_rng(0)
    speakers = np.repeat([f"s{number}" for number in range(400)], 100)
    shift, scale = 0.4 + 0.3 * rng.normal(size=400), 1.5 * np.exp(0.2 * rng.normal(size=400))
    z, noise = rng.normal(size=(2, 40_000))
    labels = np.repeat(scale, 100) * (np.repeat(shift, 100) + 0.6 * z + 0.8 * noise)
    found = LabelPrior.fit(4 + 0.5 * z, 4 + 0.5 * labels, [*speakers])
    expected = LabelPrior(0.4, 0.09, 1.5, 0.5 / 0.04, 0.6, 0.003, 0.5)
    np.testing.assert_allclose([*vars(found).values()], [*vars(expected).values()], rtol=0.15)


def test_too_few_labels_and_predictions_that_vary_by_rounding_leave_the_usual_prior_of_the_scale():
    rounded = np.where(np.arange(20) % 2, np.float32(0.5), np.nextafter(np.float32(0.5), np.float32(1)))
    few = np.where(np.arange(20) < 4, 0.5, np.nan)
    usual = LabelPrior.default((0, 1)), replace(USUAL, deviation=1 / 8)
    for predictions, labels in ((np.linspace(0, 1, 20), few), (rounded.astype(float), np.linspace(0, 1, 20))):
        found = LabelPrior.fit(predictions, labels, ["anna"] * 20, (0, 1))
        for expected in usual:
            np.testing.assert_allclose([*vars(found).values()], [*vars(expected).values()])
