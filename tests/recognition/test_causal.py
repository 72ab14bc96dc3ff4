from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from invented_run import people

from ser_personal import PosteriorCalibrator, SpeakerBank
from ser_personal.calibration.controls import AffineMap
from ser_personal.calibration.few_labels import LabelPrior, labelled_moments, with_labels
from ser_personal.calibration.pldc import PLDC, PLDCSettings
from ser_personal.calibration.table import PredictedSet
from ser_personal.recognition import causal
from ser_personal.recognition.causal import CausalLabels, CausalPLDC, CausalPosterior, calibrate_causally
from ser_personal.recognition.profiles import SpeakerProfile

ATTRIBUTES = ("arousal", "valence")
PRIORS = (LabelPrior(), LabelPrior())
TRAIN = people("train", 60, 0)
BANK = SpeakerBank.from_utterances(TRAIN.speaker_ids, TRAIN.pooled, TRAIN.labels, ATTRIBUTES)
SWITCHES = dict.fromkeys(("shift_mean", "scale_std", "center", "clip"), st.booleans())
CHOICES = {"statistics": st.sampled_from(["average", "pooled"]), "min_labels": st.sampled_from([1, 4, 7])}
SETTINGS = st.builds(PLDCSettings, k=st.integers(1, 9), prior_utterances=st.just(0), **SWITCHES, **CHOICES)


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
    calibrate = PLDC(bank, attributes, settings).calibration
    found, _ = calibrate_causally(causal, PredictedSet(predictions, ("new",) * 8, pooled, predictions))
    for last in range(8):
        so_far = slice(last + 1)
        whole = calibrate(predictions[so_far], ["new"] * (last + 1), pooled[so_far])
        np.testing.assert_allclose(found[last], whole.predictions[-1], atol=1e-7)
        rows = causal.neighbours(pooled[so_far].mean(axis=0))
        assert tuple(bank.speaker_ids[row] for row in rows) == whole.speakers[0].neighbours


def profile_of(predictions, pooled, labels=None):
    profile = SpeakerProfile.empty(pooled.shape[1], predictions.shape[1])
    for row, (vector, prediction) in enumerate(zip(pooled, predictions, strict=True)):
        profile = profile.add(vector, prediction, None if labels is None else labels[row], row)
    return profile


@pytest.mark.parametrize("shift_mean", [False, True])
def test_the_prior_counts_as_utterances_of_the_neighbours_moments(shift_mean):
    rng = np.random.default_rng(0)
    bank = some_bank(rng)
    said = rng.normal(4, 2, size=6)
    causal = CausalPLDC(bank, ("arousal",), PLDCSettings(k=7, shift_mean=shift_mean, prior_utterances=3))
    mu_bar, sigma_bar = bank.label_mean[:, 0].mean(), bank.label_std[:, 0].mean()
    # three imagined utterances, known mean and deviation; the degree of freedom that the mean takes is the speaker's
    mu = (said.sum() + 3 * mu_bar) / 9
    sigma = np.sqrt((((said - said.mean()) ** 2).sum() + 3 * sigma_bar**2) / (6 - 1 + 3))
    expected = (said[-1] - mu) / sigma * sigma_bar + (mu_bar if shift_mean else mu)
    assert causal(said[-1:], profile_of(said[:, None], rng.normal(size=(6, 5)))) == pytest.approx(expected)


def test_each_utterance_comes_out_as_from_the_whole_array():
    validation, said = people("validation", 20, 1), people("test", 1, 2, utterances=15)
    calibrator = PosteriorCalibrator(BANK).fit(**vars(validation))
    assert any(fitted.mean.amount or fitted.log_std.amount for fitted in calibrator.fitted.values())
    said.predictions[:, 0] = 4.2
    so_far = [said.part(np.arange(15) < number) for number in range(1, 16)]
    whole = np.array([calibrator(one.predictions, one.speaker_ids, one.pooled)[-1] for one in so_far])
    for order in (slice(None), slice(None, None, -1)):
        causal = CausalPosterior(calibrator.fitted, ATTRIBUTES[order])
        ordered = replace(said, predictions=said.predictions[:, order])
        np.testing.assert_allclose(calibrate_causally(causal, ordered)[0][:, order], whole, atol=1e-9)


def test_a_left_out_posterior_uses_no_label_of_its_speaker():
    validation = people("validation", 12, 1)
    own = np.array(validation.speaker_ids) == "validation 04"
    changed = replace(validation, labels=np.where(own[:, None], 1 + 0.1 * validation.labels, validation.labels))
    before, after = (causal.left_out_posteriors(BANK, ATTRIBUTES, one)[0] for one in (validation, changed))
    np.testing.assert_array_equal(before[own], after[own])
    assert np.abs(before[~own] - after[~own]).max() > 1e-3


def test_labels_correct_any_calibration_by_its_line_and_none_change_nothing():
    rng = np.random.default_rng(0)
    plain = CausalPLDC(some_bank(rng), ATTRIBUTES, PLDCSettings(k=3))
    pooled, predictions = rng.normal(size=(9, 5)), rng.normal(4, 1, size=(9, 2))
    for number, prediction in enumerate(predictions, 1):
        profile = profile_of(predictions[:number], pooled[:number])
        np.testing.assert_array_equal(CausalLabels(plain, PRIORS)(prediction, profile), plain(prediction, profile))
        np.testing.assert_array_equal(CausalLabels(None, PRIORS)(prediction, profile), prediction)
    labels = np.column_stack([rng.uniform(1, 7, 9), np.full(9, np.nan)])
    profile = profile_of(predictions, pooled, labels)
    before = np.array([plain(prediction, profile) for prediction in predictions])
    after = np.array([CausalLabels(plain, PRIORS)(prediction, profile) for prediction in predictions])
    slope, intercept = np.array([np.polyfit(predictions[:, n], before[:, n], 1) for n in range(2)]).T
    line = with_labels(AffineMap(slope, intercept), profile.predictions, labelled_moments(predictions, labels), PRIORS)
    np.testing.assert_allclose(after[:, 0], line.apply(predictions)[:, 0])
    np.testing.assert_array_equal(after[:, 1], before[:, 1])


def test_where_pldc_keeps_to_the_scale_labels_do_so_too():
    bank = some_bank(np.random.default_rng(0))
    profile = profile_of(np.linspace([2, 2], [6, 6], 5), np.ones((5, 5)), np.full((5, 2), 7.0))
    plain = [CausalPLDC(bank, ATTRIBUTES, PLDCSettings(clip=clip)) for clip in (False, True)]
    free, clipped = (CausalLabels(one, PRIORS) for one in plain)
    assert free(np.full(2, 9.0), profile).min() > 7
    np.testing.assert_array_equal(clipped(np.full(2, 9.0), profile), 7)
