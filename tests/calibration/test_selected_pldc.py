from __future__ import annotations

import numpy as np
import pytest

from ser_personal.calibration.controls import PLDC, AffineMap
from ser_personal.calibration.selected_pldc import SelectedPLDC, variants_of
from ser_personal.errors import UserError
from ser_personal.speakers.bank import SpeakerBank

ATTRIBUTES = ("arousal", "valence")


def people(prefix, num_speakers, seed):
    """Speakers whose voice tells the mean of their arousal, to which the model is deaf; it hears their valence."""
    rng = np.random.default_rng(seed)
    speaker = np.repeat(np.arange(num_speakers), 20)
    voices = rng.normal(size=(num_speakers, 2))
    emotions = rng.normal(size=(len(speaker), 2))
    means = np.column_stack([voices[:, 0], rng.normal(size=num_speakers)])[speaker]
    labels = 4 + means + emotions
    predictions = (
        4 + emotions + np.column_stack([np.zeros(len(speaker)), means[:, 1]]) + 0.3 * rng.normal(size=labels.shape)
    )
    return predictions, [f"{prefix} {number:02}" for number in speaker], voices[speaker], labels


@pytest.fixture(scope="module")
def pldc():
    _, speaker_ids, pooled, labels = people("train", 100, 1)
    return PLDC(SpeakerBank.from_utterances(speaker_ids, pooled, labels, ATTRIBUTES), ATTRIBUTES)


@pytest.fixture(scope="module")
def validation():
    return people("validation", 20, 2)


@pytest.fixture(scope="module")
def selected(pldc, validation):
    return SelectedPLDC.fit(pldc, *validation)


def test_the_link_that_is_there_is_found_and_the_one_that_is_not_is_none(selected):
    arousal, valence = selected.chosen
    assert arousal.shift_mean
    assert arousal.attributes == ("arousal",)
    assert valence is None


def test_predictions_are_those_of_the_chosen_variants_mapped_for_everyone(selected, validation):
    predictions, speaker_ids, pooled, _ = people("test", 10, 3)
    calibrated = selected(predictions, speaker_ids, pooled)
    arousal = selected.chosen[0](predictions[:, :1], speaker_ids, pooled)[:, 0]
    np.testing.assert_allclose(calibrated[:, 0], selected.affine.slope[0] * arousal + selected.affine.intercept[0])
    affine = AffineMap.fit(validation[0], validation[3])(predictions, speaker_ids, pooled)
    np.testing.assert_allclose(calibrated[:, 1], affine[:, 1])
    after = selected(*validation[:3])
    np.testing.assert_allclose(after.mean(axis=0), validation[3].mean(axis=0))
    np.testing.assert_allclose(after.std(axis=0), validation[3].std(axis=0))


def test_variants_are_all_of_plcds_switches_and_none_does_nothing(pldc):
    variants = variants_of(pldc)
    assert len(variants) == len({(v.k, v.shift_mean, v.scale_std, v.statistics, v.center) for v in variants}) == 48
    assert all(variant.shift_mean or variant.scale_std for variant in variants)
    assert {variant.clip for variant in variants} == {pldc.clip}


def test_too_few_validation_speakers(pldc):
    with pytest.raises(UserError, match="4 validation speakers have labels of arousal"):
        SelectedPLDC.fit(pldc, *people("validation", 4, 2))
