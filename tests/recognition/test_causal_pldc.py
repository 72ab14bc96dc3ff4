from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ser_personal import SpeakerBank, calibrate
from ser_personal.calibration.pldc import PLDCSettings
from ser_personal.errors import UserError
from ser_personal.recognition.causal import CausalPLDC
from ser_personal.recognition.profiles import SpeakerProfile

SETTINGS = st.builds(
    PLDCSettings,
    k=st.integers(1, 9),
    shift_mean=st.booleans(),
    scale_std=st.booleans(),
    statistics=st.sampled_from(["average", "pooled"]),
    center=st.booleans(),
    clip=st.booleans(),
    prior_utterances=st.just(0),
)


def some_bank(rng):
    labels = rng.uniform(1, 7, size=(60, 3))
    labels[rng.random(60) < 0.3, 1] = np.nan
    speakers = [f"s{row % 7}" for row in range(60)]
    return SpeakerBank.from_utterances(speakers, rng.normal(size=(60, 5)), labels, ("arousal", "valence", "dominance"))


@given(st.integers(0, 10_000), SETTINGS, st.booleans())
def test_without_a_prior_an_utterance_comes_out_as_the_last_of_all_so_far(seed, settings, constant):
    rng = np.random.default_rng(seed)
    bank, attributes = some_bank(rng), ("valence", "arousal")
    predictions, pooled = rng.normal(4, 2, size=(8, 2)), rng.normal(size=(8, 5))
    if constant:
        predictions[:, 0] = 4.2
    causal = CausalPLDC(bank, attributes, settings)
    options = {name: value for name, value in asdict(settings).items() if name != "prior_utterances"}
    profile = SpeakerProfile.empty(5, 2)
    for last in range(8):
        profile = profile.heard(pooled[last], predictions[last])
        so_far = slice(last + 1)
        whole = calibrate(
            predictions[so_far], ["new"] * (last + 1), pooled[so_far], bank, attributes=attributes, **options
        )
        np.testing.assert_allclose(causal(predictions[last], profile), whole.predictions[-1], atol=1e-7)
        rows = causal.neighbours(profile.vector)
        assert tuple(bank.speaker_ids[row] for row in rows) == whole.speakers[0].neighbours


def heard(predictions, rng):
    profile = SpeakerProfile.empty(5, 1)
    for prediction in predictions:
        profile = profile.heard(rng.normal(size=5), np.array([prediction]))
    return profile


@pytest.mark.parametrize("shift_mean", [False, True])
def test_the_prior_stands_beside_what_was_heard(shift_mean):
    rng = np.random.default_rng(0)
    bank = some_bank(rng)
    said = rng.normal(4, 2, size=6)
    causal = CausalPLDC(bank, ("arousal",), PLDCSettings(k=7, shift_mean=shift_mean, prior_utterances=3))
    mu_bar, sigma_bar = bank.label_mean[:, 0].mean(), bank.label_std[:, 0].mean()
    # three imagined utterances, known mean and deviation; the degree of freedom that the mean takes is the speaker's
    mu = (said.sum() + 3 * mu_bar) / 9
    sigma = np.sqrt((((said - said.mean()) ** 2).sum() + 3 * sigma_bar**2) / (6 - 1 + 3))
    expected = (said[-1] - mu) / sigma * sigma_bar + (mu_bar if shift_mean else mu)
    assert causal(said[-1:], heard(said, rng)) == pytest.approx(expected)


def test_a_first_utterance_keeps_its_deviation_and_hundreds_outweigh_the_prior():
    rng = np.random.default_rng(0)
    bank = some_bank(rng)
    causal, plain = (CausalPLDC(bank, ("arousal",), PLDCSettings(prior_utterances=prior)) for prior in (5, 0))
    assert causal(np.array([6.0]), heard([6.0], rng)) == pytest.approx(6.0)
    said = rng.normal(5, 0.3, size=3000)
    profile = heard(said, rng)
    assert causal(said[-1:], profile) == pytest.approx(plain(said[-1:], profile), abs=0.05)


def test_no_neighbours_are_too_few():
    with pytest.raises(UserError, match="k is 0"):
        PLDCSettings(k=0)


def test_no_less_than_nothing_is_imagined():
    with pytest.raises(UserError, match="prior_utterances is -1"):
        PLDCSettings(prior_utterances=-1)
