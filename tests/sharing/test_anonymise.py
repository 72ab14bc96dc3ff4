from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ser_personal import SpeakerBank, calibrate
from ser_personal.calibration.pldc import PLDCSettings
from ser_personal.sharing.anonymise import grouped_bank, similar_speakers


@given(st.integers(2, 6), st.integers(0, 60), st.integers(0, 1000))
def test_everybody_is_in_one_group_of_enough(least, more, seed):
    vectors = np.random.default_rng(seed).normal(size=(least + more, 3))
    groups = similar_speakers(vectors, least)
    assert sorted(np.concatenate(groups).tolist()) == list(range(least + more))
    assert all(least <= len(group) < 2 * least for group in groups)


def test_near_ones_come_together():
    rng = np.random.default_rng(0)
    middles = np.repeat(10 * np.eye(4), 5, axis=0)
    order = rng.permutation(20)
    groups = similar_speakers((middles + 0.1 * rng.normal(size=(20, 4)))[order], 5)
    assert sorted(sorted(order[group].tolist()) for group in groups) == [
        list(range(at, at + 5)) for at in (0, 5, 10, 15)
    ]


def some_bank(rng, speakers=12):
    ids = [f"s{row % speakers:02}" for row in range(20 * speakers)]
    labels = rng.uniform(1, 7, size=(len(ids), 2))
    return SpeakerBank.from_utterances(ids, rng.normal(size=(len(ids), 3)), labels, ("arousal", "valence"))


@pytest.mark.parametrize("statistics", ["average", "pooled"])
def test_a_group_lends_what_its_speakers_would(statistics):
    """With a single group for neighbour, PLDC is that towards all speakers."""
    rng = np.random.default_rng(0)
    bank = some_bank(rng)
    groups = grouped_bank(bank, 12, PLDCSettings(statistics=statistics))
    predictions, pooled = rng.normal(4, 1, size=(9, 2)), rng.normal(size=(9, 3))
    ours, theirs = (
        calibrate(predictions, ["new"] * 9, pooled, one, k=12, shift_mean=True, statistics=statistics)
        for one in (groups, bank)
    )
    assert len(groups.speaker_ids) == 1
    np.testing.assert_allclose(ours.predictions, theirs.predictions)
    np.testing.assert_allclose(groups.vectors[0], bank.vectors.mean(axis=0))
    assert (groups.count == 240).all()


def test_labels_of_too_few_count_as_none():
    rng = np.random.default_rng(0)
    bank = some_bank(rng)
    bank.count[:10, 1] = 0
    bank.label_mean[:10, 1] = bank.label_std[:10, 1] = np.nan
    groups = grouped_bank(bank, 4, PLDCSettings())
    assert (groups.count[:, 0] > 0).all()
    assert (groups.count[:, 1] == 0).all()
    assert np.isnan(groups.label_mean[:, 1]).all()
    # nor may one speaker with enough labels stand for the group
    bank.count[1:, 0] = 2
    assert not grouped_bank(bank, 4, PLDCSettings(min_labels=5)).count.any()
