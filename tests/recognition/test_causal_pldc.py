from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ser_personal import SpeakerBank, calibrate
from ser_personal.errors import UserError
from ser_personal.recognition.causal import CausalPLDC, PLDCSettings
from ser_personal.recognition.profiles import SpeakerProfile

SETTINGS = st.builds(
    PLDCSettings,
    k=st.integers(1, 9),
    shift_mean=st.booleans(),
    scale_std=st.booleans(),
    statistics=st.sampled_from(["average", "pooled"]),
    center=st.booleans(),
    clip=st.booleans(),
)


def some_bank(rng):
    labels = rng.uniform(1, 7, size=(60, 3))
    labels[rng.random(60) < 0.3, 1] = np.nan
    speakers = [f"s{row % 7}" for row in range(60)]
    return SpeakerBank.from_utterances(speakers, rng.normal(size=(60, 5)), labels, ("arousal", "valence", "dominance"))


@given(st.integers(0, 10_000), SETTINGS, st.booleans())
def test_each_utterance_comes_out_as_if_it_were_the_last_of_all_so_far(seed, settings, constant):
    rng = np.random.default_rng(seed)
    bank, attributes = some_bank(rng), ("valence", "arousal")
    predictions, pooled = rng.normal(4, 2, size=(8, 2)), rng.normal(size=(8, 5))
    if constant:
        predictions[:, 0] = 4.2
    causal = CausalPLDC(bank, attributes, settings)
    profile = SpeakerProfile.empty(5, 2)
    for last in range(8):
        profile = profile.heard(pooled[last], predictions[last])
        so_far = slice(last + 1)
        whole = calibrate(
            predictions[so_far], ["new"] * (last + 1), pooled[so_far], bank, attributes=attributes, **settings.as_json()
        )
        np.testing.assert_allclose(causal(predictions[last], profile), whole.predictions[-1], atol=1e-7)
        rows = causal.neighbours(profile.vector)
        assert tuple(bank.speaker_ids[row] for row in rows) == whole.speakers[0].neighbours


def test_no_neighbours_are_too_few():
    with pytest.raises(UserError, match="k is 0"):
        PLDCSettings(k=0)
