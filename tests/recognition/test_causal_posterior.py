from __future__ import annotations

import numpy as np
import pytest

from ser_personal import PosteriorCalibrator, SpeakerBank
from ser_personal.recognition.causal import CausalPosterior, calibrate_in_turn
from ser_personal.recognition.profiles import SpeakerProfile

ATTRIBUTES = ("arousal", "valence")


def people(number, seed):
    rng = np.random.default_rng(seed)
    speaker = np.repeat(np.arange(number), 15)
    voices = rng.normal(size=(number, 4))
    stds = np.exp(0.3 * voices[:, 2:])
    labels = (4 + 0.5 * voices[:, :2])[speaker] + stds[speaker] * rng.normal(size=(len(speaker), 2))
    predictions = 1.5 + 0.6 * labels + 0.4 * rng.normal(size=labels.shape)
    return predictions, [f"s{one:02}" for one in speaker], voices[speaker] + rng.normal(size=(len(speaker), 4)), labels


@pytest.mark.parametrize("constant", [False, True])
def test_each_utterance_comes_out_as_from_the_whole_array(constant):
    training, validation = people(60, 0), people(20, 1)
    bank = SpeakerBank.from_utterances([f"t{one}" for one in training[1]], *training[2:], ATTRIBUTES)
    calibrator = PosteriorCalibrator(bank).fit(*validation)
    assert any(fitted.mean.amount or fitted.log_std.amount for fitted in calibrator.fitted.values())
    predictions, _, pooled, _ = people(1, 2)
    if constant:
        predictions[:, 0] = 4.2
    whole = calibrator.calibrate(predictions, ["new"] * len(predictions), pooled, causal=True)
    causal = CausalPosterior(calibrator.fitted, ATTRIBUTES)
    one_by_one = calibrate_in_turn(causal, predictions, pooled, SpeakerProfile.empty(4, 2))
    np.testing.assert_allclose(one_by_one.predictions, whole.predictions, atol=1e-9)
    turned = CausalPosterior(calibrator.fitted, ATTRIBUTES[::-1])
    backwards = calibrate_in_turn(turned, predictions[:, ::-1], pooled, SpeakerProfile.empty(4, 2))
    np.testing.assert_allclose(backwards.predictions[:, ::-1], whole.predictions, atol=1e-9)
