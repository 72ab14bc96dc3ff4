from __future__ import annotations

import numpy as np
import pytest

from ser_personal.encoder.front_end import mfcc_functionals
from ser_personal.errors import UserError

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
