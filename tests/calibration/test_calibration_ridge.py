from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import Ridge as Sklearn

from ser_personal.calibration.posterior import STRENGTHS, Ridge


def problem(rows, features, seed, noise=1.0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, features)) * np.linspace(0.5, 2, features) + 3
    return x, x @ rng.normal(size=features) + noise * rng.normal(size=rows) + 5, rng.uniform(0.1, 1, rows)


def slow(x, y, weights, strength):
    """Weighted ridge regression by scikit-learn, in whose sum of squares the weights count as they are."""
    centered = (x - np.average(x, axis=0, weights=weights)) * np.sqrt(weights / weights.sum())[:, None]
    spread = (centered**2).sum() / min(x.shape)
    return Sklearn(alpha=min(strength, 1e12) * spread * weights.sum()).fit(x, y, sample_weight=weights)


@pytest.mark.parametrize(("rows", "features"), [(30, 4), (12, 40)])
def test_fit_is_sklearns_at_the_chosen_strength(rows, features):
    x, y, weights = problem(rows, features, 0)
    fitted, expected = Ridge.fit(x, y, weights), slow(x, y, weights, Ridge.fit(x, y, weights).strength)
    np.testing.assert_allclose(fitted.coefficients, expected.coef_, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(fitted(x), expected.predict(x), rtol=1e-6)
    np.testing.assert_allclose(fitted.fitted, fitted(x), rtol=1e-9)


def test_left_out_rows_are_predicted_by_fits_without_them():
    x, y, weights = problem(15, 3, 1)
    fitted = Ridge.fit(x, y, weights)
    centered = (x - np.average(x, axis=0, weights=weights)) * np.sqrt(weights / weights.sum())[:, None]
    for row in range(15):
        kept = np.arange(15) != row
        # the strength in absolute terms, not in those of the rows that are left
        penalty = fitted.strength * (centered**2).sum() / 3 * weights.sum()
        without = Sklearn(alpha=penalty).fit(x[kept], y[kept], sample_weight=weights[kept])
        assert fitted.left_out[row] == pytest.approx(without.predict(x[[row]])[0], rel=1e-9)


def test_strength_is_infinite_where_features_tell_nothing_and_small_where_they_tell_all():
    x, y, weights = problem(200, 5, 2, noise=0)
    assert Ridge.fit(x, y, weights).strength == STRENGTHS.min()
    unrelated = np.random.default_rng(3).permutation(y)
    nothing = Ridge.fit(np.zeros_like(x), y, weights)
    assert nothing.strength == np.inf
    assert not nothing.coefficients.any()
    assert nothing.intercept == pytest.approx(np.average(y, weights=weights))
    assert Ridge.fit(x, unrelated, weights).strength > 1


def test_a_row_that_is_left_out_of_two_is_predicted_by_the_other():
    fitted = Ridge.fit(np.array([[0.0], [0.0]]), np.array([1.0, 3.0]), np.ones(2))
    np.testing.assert_allclose(fitted.left_out, [3, 1])


def test_a_single_row_is_what_is_predicted():
    fitted = Ridge.fit(np.array([[1.0, 2.0]]), np.array([4.0]), np.ones(1))
    np.testing.assert_allclose(fitted(np.array([[7.0, -7.0]])), [4])
