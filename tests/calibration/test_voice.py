from __future__ import annotations

import numpy as np
import pytest

from ser_personal.calibration.posterior import VoiceEstimate
from ser_personal.errors import UserError
from ser_personal.speakers.bank import SpeakerBank

ATTRIBUTES = ("arousal", "valence")


def bank(num_speakers=400, seed=0):
    """The first coordinate of a voice tells the mean of arousal, the second its log-deviation."""
    rng = np.random.default_rng(seed)
    speaker = np.repeat(np.arange(num_speakers), rng.integers(1, 60, num_speakers))
    voices = rng.normal(size=(num_speakers, 3))
    noise = rng.normal(size=len(speaker))
    labels = np.full((len(speaker), 2), np.nan)
    labels[:, 0] = (4 + 0.5 * voices[:, 0])[speaker] + (0.8 * np.exp(0.3 * voices[:, 1]))[speaker] * noise
    labels[speaker % 10 == 0, 0] = np.nan
    return SpeakerBank.from_utterances([str(number) for number in speaker], voices[speaker], labels, ATTRIBUTES)


def test_planted_links_are_found():
    voice = VoiceEstimate.fit(bank(), "arousal")
    np.testing.assert_allclose(voice.mean.coefficients, [0.5, 0, 0], atol=0.04)
    np.testing.assert_allclose(voice.log_std.coefficients, [0, 0.3, 0], atol=0.04)
    estimates = voice(np.array([[0.0, 0.0, 0.0], [1.0, -1.0, 5.0]]))
    np.testing.assert_allclose(estimates[:, 0], [4, 4.5], atol=0.2)
    np.testing.assert_allclose(np.exp(estimates[:, 1]), [0.8, 0.8 * np.exp(-0.3)], rtol=0.2)


def test_an_estimate_of_a_speaker_is_the_mean_over_utterances():
    voice, pooled = VoiceEstimate.fit(bank(), "arousal"), np.random.default_rng(1).normal(size=(7, 3))
    np.testing.assert_allclose(voice(pooled).mean(axis=0), voice(pooled.mean(axis=0, keepdims=True))[0])


def test_speakers_of_few_labels_hardly_matter():
    rng = np.random.default_rng(2)
    counts = np.where(np.arange(60) < 30, 1, 500)
    speaker = np.repeat(np.arange(60), counts)
    voices = rng.normal(size=(60, 1))
    # those of one label each point the other way
    means = np.where(np.arange(60) < 30, -0.3, 0.3) * voices[:, 0]
    labels = (4 + means)[speaker] + 2 * rng.normal(size=len(speaker))
    both = SpeakerBank.from_utterances([f"{n:02}" for n in speaker], voices[speaker], labels[:, None], ["arousal"])
    assert VoiceEstimate.fit(both, "arousal").mean.coefficients[0] > 0.2


def test_an_attribute_without_labels():
    with pytest.raises(UserError, match="no training speaker has a label of valence"):
        VoiceEstimate.fit(bank(), "valence")
