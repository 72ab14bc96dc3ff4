from __future__ import annotations

import numpy as np
import pytest

from ser_personal.errors import UserError
from ser_personal.report.floor import mfcc_functionals, ridge_floor

VALUES = 39


def noise(samples=16_000):
    return (0.01 * np.random.default_rng(0).standard_normal(samples)).astype(np.float32)


def test_ten_decibels_move_only_the_first_coefficient():
    mean, std, *quantiles = (mfcc_functionals(noise() * np.float32(10**0.5)) - mfcc_functionals(noise())).reshape(7, -1)
    louder = np.zeros(VALUES)
    louder[0] = 10 * 40 / np.sqrt(40)  # an orthonormal DCT of 40 mel bins, each 10 dB louder
    for statistic in (mean, *quantiles):
        assert statistic == pytest.approx(louder, abs=1e-2)
    assert std == pytest.approx(np.zeros(VALUES), abs=1e-2)


def test_functionals_of_steady_sound_are_its_frame():
    period = noise(320)  # a hop, so that every frame is the same
    mean, std, *quantiles = mfcc_functionals(np.tile(period, 20)).reshape(7, -1)
    assert std == pytest.approx(np.zeros(VALUES), abs=1e-3)
    for statistic in quantiles:
        assert statistic == pytest.approx(mean, abs=1e-3)
    assert mean[13:] == pytest.approx(np.zeros(26), abs=1e-3)


def test_samples_after_the_last_whole_frame_do_not_count():
    assert np.array_equal(mfcc_functionals(noise()[:1039]), mfcc_functionals(noise()[:720]))


def test_shorter_than_a_frame_is_refused():
    with pytest.raises(UserError, match="has 399 samples"):
        mfcc_functionals(noise(399))


def task(utterances=300, features=6):
    rng = np.random.default_rng(1)
    inputs = rng.standard_normal((utterances, features)) * rng.uniform(0.1, 100, features) + 5
    labels = 4 + inputs / inputs.std(0) @ rng.standard_normal((features, 3))
    return inputs.astype(np.float32), labels


def test_a_linear_relation_is_found():
    features, labels = task()
    assert ridge_floor(features[:200], labels[:200], features[200:]) == pytest.approx(labels[200:], abs=0.02)


def test_missing_labels_are_left_out_attribute_by_attribute():
    features, labels = task()
    gaps = labels.copy()
    gaps[:50, 1] = np.nan
    predictions = ridge_floor(features, gaps, features)
    assert predictions[:, [1]] == pytest.approx(ridge_floor(features[50:], labels[50:, [1]], features))
    assert predictions[:, [0, 2]] == pytest.approx(ridge_floor(features, labels[:, [0, 2]], features))


def test_an_attribute_without_labels_is_not_predicted():
    features, labels = task()
    labels[:, 2] = np.nan
    predictions = ridge_floor(features, labels, features)
    assert np.isnan(predictions).all(0).tolist() == [False, False, True]
