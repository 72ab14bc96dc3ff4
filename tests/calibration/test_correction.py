from __future__ import annotations

import numpy as np
import pytest

from ser_personal.calibration.posterior import Correction, Measured


def speakers(voice_noise, seed=0, number=400):
    """True means, which a voice and the predictions each tell with an error of their own; -> both, and the truth."""
    rng = np.random.default_rng(seed)
    counts, true = rng.integers(5, 200, number).astype(float), 4 + 0.5 * rng.normal(size=number)
    own, voice = true + 0.2 * rng.normal(size=number), true + voice_noise * rng.normal(size=number)
    return Measured(own, counts, 0.0), Measured(voice, counts, 0.0), Measured(true, counts, 0.0)


def test_both_are_weighed_by_their_precision():
    own, voice, true = speakers(voice_noise=0.2)
    estimate = Correction.fit(own, voice, true).correction(own.values, voice.values, own.counts)
    # precisions 25, 25 and, of what is usual, 4
    expected = (25 * own.values + 25 * voice.values + 4 * 4.0) / 54
    np.testing.assert_allclose(estimate.own, own.values)
    assert np.sqrt(np.mean((estimate.expected - expected) ** 2)) < 0.02


def test_a_voice_that_tells_nothing_gets_no_weight():
    own, voice, true = speakers(voice_noise=0.2)
    unrelated = voice._replace(values=np.random.default_rng(1).permutation(voice.values))
    correction = Correction.fit(own, unrelated, true).correction
    assert abs(correction.regression.coefficients[1]) < 0.05


def test_no_correction_exceeds_those_it_was_fitted_on():
    own, voice, true = speakers(voice_noise=0.2, number=30)
    correction = Correction.fit(own, voice, true).correction
    fitted = correction(own.values, voice.values, own.counts).correction
    far = correction(own.values, voice.values + 1000, own.counts).correction
    assert far.max() == pytest.approx(fitted.max())
    assert correction(own.values, voice.values - 1000, own.counts).correction.min() == pytest.approx(fitted.min())
