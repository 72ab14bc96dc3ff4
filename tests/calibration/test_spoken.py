from __future__ import annotations

import numpy as np

from ser_personal.calibration.posterior import spoken, spoken_by

ROWS_OF = {"a": np.array([0, 2, 5]), "b": np.array([1, 3])}


def values():
    return np.random.default_rng(0).normal(1000, 1, (7, 2))


def test_moments_of_all_that_a_speaker_says():
    x = values()
    moments = spoken(x, ROWS_OF)
    for rows in ROWS_OF.values():
        assert (moments.counts[rows] == len(rows)).all()
        np.testing.assert_allclose(moments.means[rows], np.tile(x[rows].mean(axis=0), (len(rows), 1)))
        np.testing.assert_allclose(moments.variances[rows], np.tile(x[rows].var(axis=0), (len(rows), 1)), atol=1e-9)
    assert moments.counts[[4, 6]].tolist() == [0, 0]
    assert np.isnan(moments.means[[4, 6]]).all()


def test_causal_moments_are_those_of_the_utterances_so_far():
    x = values()
    moments = spoken(x, ROWS_OF, causal=True)
    for rows in ROWS_OF.values():
        for place, row in enumerate(rows):
            heard = x[rows[: place + 1]]
            assert moments.counts[row] == len(heard)
            np.testing.assert_allclose(moments.means[row], heard.mean(axis=0))
            np.testing.assert_allclose(moments.variances[row], heard.var(axis=0), atol=1e-9)


def test_equal_values_have_no_variance_at_all():
    assert not spoken(np.full((7, 1), 0.1), ROWS_OF, causal=True).variances[[0, 1, 2, 3, 5]].any()


def test_by_speaker_is_a_row_each():
    x = values()
    moments = spoken_by(x, ROWS_OF)
    assert moments.counts.tolist() == [3, 2]
    np.testing.assert_allclose(moments.means, [x[rows].mean(axis=0) for rows in ROWS_OF.values()])
