from __future__ import annotations

from dataclasses import replace

import audmetric
import numpy as np
import pytest

from ser_personal.calibration.controls import AffineMap, RandomSpeakers, own_statistics
from ser_personal.calibration.pldc import PLDC, PLDCSettings
from ser_personal.speakers.bank import SpeakerBank

NAN = float("nan")


@pytest.fixture
def rng():
    return np.random.default_rng(11)


@pytest.fixture
def pldc(rng):
    ids = [f"train {s:02}" for s in rng.integers(0, 20, 400)]
    labels = rng.integers(1, 8, (400, 2)).astype(float)
    bank = SpeakerBank.from_utterances(ids, rng.normal(size=(400, 5)), labels, ("arousal", "valence"))
    return PLDC(bank, bank.attributes, PLDCSettings(k=4, shift_mean=True))


@pytest.fixture
def inputs(rng):
    speaker_ids = ["b"] * 10 + ["a"] * 15 + [None] * 3
    return rng.normal(4, 1, (28, 2)), speaker_ids, rng.normal(size=(28, 5))


@pytest.mark.parametrize("sign", [1, -1])
def test_no_other_line_has_a_greater_ccc_and_it_equals_the_correlation(rng, sign):
    predictions = rng.normal(size=(200, 1))
    labels = 4 + sign * predictions + rng.normal(size=(200, 1))
    best = AffineMap.fit(predictions, labels)

    def ccc_of(slope, intercept):
        return audmetric.concordance_cc(labels[:, 0], slope * predictions[:, 0] + intercept)

    reached = ccc_of(best.slope[0], best.intercept[0])
    assert reached == pytest.approx(abs(np.corrcoef(predictions[:, 0], labels[:, 0])[0, 1]))
    for slope in np.linspace(-3, 3, 25):
        for intercept in np.linspace(2, 6, 17):
            assert ccc_of(slope, intercept) <= reached


def test_affine_map_where_nothing_can_be_fitted():
    # constant predictions, a single label, no label
    predictions = np.array([[0.1, 2.0, 3.0]] * 3) + np.array([[0.0, 0.0, 0.0], [0.0, 1.0, 1.0], [0.0, 2.0, 2.0]])
    labels = np.array([[1.0, NAN, NAN], [4.0, 6.0, NAN], [7.0, NAN, NAN]])
    fitted = AffineMap.fit(predictions, labels)
    assert fitted.slope.tolist() == [1, 1, 1]
    np.testing.assert_allclose(fitted.intercept, [3.9, 3.0, 0.0])


def test_each_draw_takes_k_random_speakers_of_the_bank_for_each_test_speaker(pldc, inputs):
    one = replace(pldc, settings=PLDCSettings(k=1, shift_mean=True))
    draws = RandomSpeakers(one, draws=50)(*inputs)
    assert draws.shape == (50, 28, 2)
    np.testing.assert_array_equal(draws[:, 25:], np.broadcast_to(inputs[0][25:], (50, 3, 2)))
    means = {speaker: draws[:, rows].mean(axis=1) for speaker, rows in (("b", slice(0, 10)), ("a", slice(10, 25)))}
    for reached in means.values():
        nearest = np.abs(reached[:, None] - pldc.bank.label_mean[None]).max(axis=2).min(axis=1)
        assert nearest.max() < 1e-9
        assert len(np.unique(reached.round(9), axis=0)) > 10
    assert not np.allclose(means["a"], means["b"])


def test_random_speakers_follow_the_seed_whatever_the_order_of_utterances(pldc, inputs, rng):
    draws = RandomSpeakers(pldc, draws=3, seed=5)(*inputs)
    np.testing.assert_array_equal(draws, RandomSpeakers(pldc, draws=3, seed=5)(*inputs))
    assert not np.allclose(draws, RandomSpeakers(pldc, draws=3, seed=6)(*inputs))
    predictions, speaker_ids, pooled = inputs
    order = rng.permutation(28)
    shuffled = RandomSpeakers(pldc, draws=3, seed=5)(predictions[order], [speaker_ids[i] for i in order], pooled[order])
    np.testing.assert_allclose(shuffled, draws[:, order], atol=1e-12)


def test_own_statistics_are_the_speakers_own_labels(pldc, inputs, rng):
    predictions, speaker_ids, pooled = inputs
    labels = rng.uniform(1, 7, (28, 2))
    labels[:4, 0] = NAN
    labels[10:25, 1] = NAN
    oracle = own_statistics(pldc, predictions, speaker_ids, pooled, labels)
    np.testing.assert_allclose(oracle[:10].mean(axis=0), np.nanmean(labels[:10], axis=0))
    np.testing.assert_allclose(oracle[:10].std(axis=0), np.nanstd(labels[:10], axis=0))
    np.testing.assert_array_equal(oracle[10:25, 1], predictions[10:25, 1])
    np.testing.assert_array_equal(oracle[25:], predictions[25:])
    sigma = own_statistics(replace(pldc, settings=PLDCSettings()), predictions, speaker_ids, pooled, labels)
    np.testing.assert_allclose(sigma[:10].mean(axis=0), predictions[:10].mean(axis=0))
