from __future__ import annotations

import numpy as np
import pytest

from ser_personal.calibration.posterior import Measured, Shrinkage, Spoken, measured_log_std, measured_mean


def sample(speakers, between, within, seed=0):
    """Speakers of 2 to 40 utterances; -> their true means, and the moments measured."""
    rng = np.random.default_rng(seed)
    counts, true = rng.integers(2, 41, speakers), 4 + between * rng.normal(size=speakers)
    drawn = [mean + within * rng.normal(size=count) for mean, count in zip(true, counts, strict=True)]
    means, variances = (np.array([getattr(one, name)() for one in drawn])[:, None] for name in ("mean", "var"))
    return true, Spoken(counts.astype(float), means, variances)


def test_spread_and_noise_are_found_again():
    _, moments = sample(4000, 0.5, 0.9)
    mean = measured_mean(moments, 0)
    assert mean.noise == pytest.approx(0.9**2, rel=0.02)
    shrinkage = Shrinkage.fit(mean)
    assert shrinkage.center == pytest.approx(4, abs=0.02)
    assert shrinkage.between == pytest.approx(0.5**2, rel=0.1)


def test_shrunken_means_are_nearer_to_the_true_ones_most_where_utterances_are_few():
    true, moments = sample(4000, 0.5, 0.9)
    mean = measured_mean(moments, 0)
    shrinkage = Shrinkage.fit(mean)
    shrunken = shrinkage.center + shrinkage(mean.values, mean.counts)
    few = moments.counts < 6
    gain = (mean.values - true) ** 2 - (shrunken - true) ** 2
    assert gain[few].mean() > 5 * gain[~few].mean() > 0


def test_shrinkage_by_hand():
    # a quarter of the variance is the speaker's own at one utterance, a half at three
    shrinkage = Shrinkage(center=4.0, between=1.0, noise=3.0)
    np.testing.assert_allclose(shrinkage(np.array([5.0, 5.0]), np.array([1.0, 3.0])), [0.25, 0.5])


def test_speakers_who_differ_by_chance_alone_are_all_the_same():
    counts = np.full(50, 10.0)
    values = np.random.default_rng(1).normal(size=50) * 0.1
    shrinkage = Shrinkage.fit(Measured(values, counts, noise=10.0))
    assert shrinkage.between == 0
    assert not shrinkage(values, counts).any()


def test_precisions_grow_with_counts_and_no_faster():
    measured = Measured(np.array([1.0, 3.0, 5.0, 2.0]), np.array([1.0, 2.0, 4.0, 1e6]), noise=1.0)
    weights = measured.precisions()
    assert (np.diff(weights) > 0).all()
    assert weights[-1] == 1
    assert (weights[1:] / weights[:-1] <= measured.counts[1:] / measured.counts[:-1]).all()


def test_log_deviation_of_few_utterances_is_finite_and_hardly_biased():
    alone = Spoken(np.ones(1), np.zeros((1, 1)), np.zeros((1, 1)))
    assert measured_log_std(alone, 0, usual=0.25).values[0] == pytest.approx(np.log(0.5))
    assert np.isfinite(measured_log_std(alone, 0, usual=0.0).values).all()
    rng = np.random.default_rng(2)
    drawn = 2 * rng.normal(size=(20_000, 5))
    moments = Spoken(np.full(20_000, 5.0), np.zeros((20_000, 1)), drawn.var(axis=1)[:, None])
    ours = measured_log_std(moments, 0, usual=4.0).values.mean()
    assert abs(ours - np.log(2)) < abs(np.log(drawn.std(axis=1)).mean() - np.log(2)) / 3
