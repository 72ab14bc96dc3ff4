from __future__ import annotations

import numpy as np
import pytest

from ser_personal.report.bootstrap import Bootstrap, Estimate


def test_interval_of_a_mean_is_that_of_the_normal_distribution():
    values = np.random.default_rng(0).normal(3, 2, 400)
    weights = Bootstrap(resamples=4000).weights([None] * 400)
    estimate = Bootstrap().estimate(weights @ values / 400, 400)
    half = 1.96 * values.std() / np.sqrt(400)
    assert (estimate.low, estimate.high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.03)
    assert estimate.refused is None


def test_each_draw_keeps_each_stratum_s_number_of_speakers():
    strata = ["a"] * 3 + ["b"] * 5
    weights = Bootstrap(resamples=50).weights(strata)
    assert weights.shape == (51, 8)
    assert (weights[0] == 1).all()
    assert (weights[:, :3].sum(axis=1) == 3).all()
    assert (weights[:, 3:].sum(axis=1) == 5).all()
    assert len(np.unique(weights, axis=0)) > 40


def test_the_seed_makes_the_draws():
    strata = [None] * 12
    np.testing.assert_array_equal(Bootstrap(20, seed=1).weights(strata), Bootstrap(20, seed=1).weights(strata))
    assert (Bootstrap(20, seed=1).weights(strata) != Bootstrap(20, seed=2).weights(strata)).any()


def test_no_interval_under_ten_speakers():
    figures = np.append(0.5, np.linspace(0, 1, 101))
    assert Bootstrap().estimate(figures, 10) == Estimate(0.5, pytest.approx(0.025), pytest.approx(0.975))
    refused = Bootstrap().estimate(figures, 9)
    assert refused.refused == "9 speakers, an interval needs 10"
    assert np.isnan([refused.low, refused.high]).all()
    assert refused.value == 0.5


def test_undefined_draws_are_left_out_and_an_undefined_value_has_no_interval():
    for values in ([np.nan, 0.1, 0.2], [0.1, np.nan, np.nan]):
        assert Bootstrap().estimate(np.array(values), 20).refused == "undefined"
    assert Bootstrap().estimate(np.array([1.0, np.nan, 1.0, 1.0]), 20).high == 1
