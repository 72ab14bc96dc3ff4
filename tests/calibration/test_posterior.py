from __future__ import annotations

import inspect
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ser_personal import PosteriorCalibrator
from ser_personal.calibration.controls import AffineMap
from ser_personal.errors import UserError
from ser_personal.scores import score
from ser_personal.speakers.bank import SpeakerBank

ATTRIBUTES = ("arousal", "valence")
NAN = float("nan")


def people(prefix, num_speakers, seed, strength=0.95, fewest=5, most=60):
    """Speakers whose voice tells label mean and log-deviation of arousal; nothing tells those of valence.

    The model follows the labels of both, errs on each speaker by a constant and a gain, and is off for everyone.
    """
    rng = np.random.default_rng(seed)
    speaker = np.repeat(np.arange(num_speakers), rng.integers(fewest, most + 1, num_speakers))
    voices = rng.normal(size=(num_speakers, 6))
    directions = np.random.default_rng(99).normal(size=(6, 2))
    told = voices @ (directions / np.linalg.norm(directions, axis=0))
    mixed = strength * told + np.sqrt(1 - strength**2) * rng.normal(size=(num_speakers, 2))
    traits = np.stack([mixed, rng.normal(size=(num_speakers, 2))], axis=1)
    means, stds = 4 + 0.5 * traits[..., 0], 0.8 * np.exp(0.25 * traits[..., 1])
    within = stds[speaker] * rng.normal(size=(len(speaker), 2))
    biases, gains = 0.2 * rng.normal(size=(num_speakers, 2)), np.exp(0.2 * rng.normal(size=(num_speakers, 2)))
    noise = 0.4 * rng.normal(size=within.shape)
    predictions = 2 + 0.7 * (means - 4 + biases)[speaker] + 0.5 * gains[speaker] * within + noise
    return SimpleNamespace(
        inputs=(predictions, [f"{prefix} {number:03}" for number in speaker], voices[speaker]),
        labels=means[speaker] + within,
        speaker=speaker,
        means=means,
        stds=stds,
    )


@pytest.fixture(scope="module")
def bank():
    train = people("train", 300, 1)
    return SpeakerBank.from_utterances(train.inputs[1], train.inputs[2], train.labels, ATTRIBUTES)


@pytest.fixture(scope="module")
def validation():
    return people("validation", 40, 2)


@pytest.fixture(scope="module")
def calibrator(bank, validation):
    return PosteriorCalibrator(bank).fit(*validation.inputs, validation.labels)


@pytest.fixture(scope="module")
def affine(validation):
    return AffineMap.fit(validation.inputs[0], validation.labels)


@pytest.fixture(scope="module")
def test_set():
    return people("test", 60, 3)


def scores_of(predictions, people):
    return score(predictions, people.labels, people.inputs[1], ATTRIBUTES)


def test_calibration_takes_no_label():
    assert "labels" not in inspect.signature(PosteriorCalibrator.calibrate).parameters


def test_where_voices_tell_the_labels_both_scores_gain(calibrator, affine, test_set):
    before, after = scores_of(affine(*test_set.inputs), test_set), scores_of(calibrator(*test_set.inputs), test_set)
    assert after["arousal"].overall_ccc > before["arousal"].overall_ccc + 0.01
    assert after["arousal"].average_ccc > before["arousal"].average_ccc + 0.01
    assert calibrator.fitted["arousal"].amounts.mean >= 0.5


def test_where_they_tell_nothing_the_affine_map_is_left(affine, calibrator, test_set):
    posterior, expected = calibrator(*test_set.inputs)[:, 1], affine(*test_set.inputs)[:, 1]
    assert np.abs(posterior - expected).mean() < 0.05 * expected.std()
    before, after = scores_of(affine(*test_set.inputs), test_set), scores_of(calibrator(*test_set.inputs), test_set)
    assert after["valence"].overall_ccc > before["valence"].overall_ccc - 0.002
    assert after["valence"].average_ccc > before["valence"].average_ccc - 0.002


@pytest.mark.parametrize("seed", range(4))
def test_no_harm_on_average_over_corpora_without_a_link(seed):
    changes = []
    for offset in range(3):
        train, validation, test_set = (
            people(name, number, 10 * seed + offset + 100 * place, strength=0.0)
            for place, (name, number) in enumerate([("train", 100), ("validation", 40), ("test", 40)], start=1)
        )
        bank = SpeakerBank.from_utterances(train.inputs[1], train.inputs[2], train.labels, ATTRIBUTES)
        calibrator = PosteriorCalibrator(bank).fit(*validation.inputs, validation.labels)
        affine = AffineMap.fit(validation.inputs[0], validation.labels)
        before, after = scores_of(affine(*test_set.inputs), test_set), scores_of(calibrator(*test_set.inputs), test_set)
        changes += [
            [getattr(after[name], kind) - getattr(before[name], kind) for kind in ("overall_ccc", "average_ccc")]
            for name in ATTRIBUTES
        ]
    assert (np.mean(changes, axis=0) > -0.003).all()


def test_too_high_a_price_leaves_the_affine_map_exactly(bank, validation, affine, test_set):
    dear = PosteriorCalibrator(bank, price=1e6).fit(*validation.inputs, validation.labels)
    np.testing.assert_allclose(dear(*test_set.inputs), affine(*test_set.inputs))


def test_planted_moments_of_a_speaker_are_recovered(calibrator, affine, test_set):
    calibration = calibrator.calibrate(*test_set.inputs)
    told = np.array([speaker.mu_bar[0] for speaker in calibration.speakers])
    own = affine.slope[0] * np.array([speaker.mu[0] for speaker in calibration.speakers]) + affine.intercept[0]
    error, error_of_own = (np.mean((estimate - test_set.means[:, 0]) ** 2) for estimate in (told, own))
    assert error < 0.6 * error_of_own
    assert error < 0.2**2
    told = np.log([speaker.sigma_bar[0] for speaker in calibration.speakers])
    assert np.corrcoef(told, np.log(test_set.stds[:, 0]))[0, 1] > 0.85


def test_validation_predictions_get_the_moments_of_their_labels(calibrator, validation):
    calibrated = calibrator(*validation.inputs)
    np.testing.assert_allclose(calibrated.mean(axis=0), validation.labels.mean(axis=0))
    np.testing.assert_allclose(calibrated.std(axis=0), validation.labels.std(axis=0))


def test_moments_before_are_the_predictions_own(calibrator, test_set):
    predictions = test_set.inputs[0]
    for number, speaker in enumerate(calibrator.calibrate(*test_set.inputs).speakers):
        own = predictions[test_set.speaker == number]
        assert (speaker.speaker_id, speaker.utterances) == (f"test {number:03}", len(own))
        np.testing.assert_allclose(speaker.mu, own.mean(axis=0))
        np.testing.assert_allclose(speaker.sigma, own.std(axis=0))


@pytest.mark.parametrize("causal", [False, True])
def test_no_test_speaker_matters_to_another(calibrator, test_set, causal):
    predictions, speaker_ids, pooled = test_set.inputs
    calibrated = calibrator.calibrate(*test_set.inputs, causal=causal).predictions
    kept = test_set.speaker % 3 == 0
    few = calibrator.calibrate(
        predictions[kept], [s for s, k in zip(speaker_ids, kept, strict=True) if k], pooled[kept], causal=causal
    )
    np.testing.assert_allclose(few.predictions, calibrated[kept])
    order = np.argsort(-test_set.speaker, kind="stable")
    moved = calibrator.calibrate(predictions[order], [speaker_ids[i] for i in order], pooled[order], causal=causal)
    np.testing.assert_allclose(moved.predictions, calibrated[order])


def test_order_within_a_speaker_matters_only_where_time_does(calibrator, test_set):
    predictions, speaker_ids, pooled = test_set.inputs
    order = np.random.default_rng(4).permutation(len(predictions))
    shuffled = predictions[order], [speaker_ids[i] for i in order], pooled[order]
    np.testing.assert_allclose(calibrator(*shuffled), calibrator(*test_set.inputs)[order])
    causal = calibrator.calibrate(*shuffled, causal=True).predictions
    assert not np.allclose(causal, calibrator.calibrate(*test_set.inputs, causal=True).predictions[order])


def test_causal_is_calibration_of_what_was_said_so_far(calibrator, test_set):
    order = np.random.default_rng(5).permutation(len(test_set.speaker))
    predictions, speaker_ids, pooled = (np.array(array)[order] for array in test_set.inputs)
    causal = calibrator.calibrate(predictions, speaker_ids, pooled, causal=True).predictions
    for so_far in (1, 2, 50, len(order)):
        prefix = calibrator.calibrate(predictions[:so_far], speaker_ids[:so_far], pooled[:so_far]).predictions
        np.testing.assert_allclose(causal[so_far - 1], prefix[-1])


def test_causal_calibration_gains_as_well(calibrator, affine, test_set):
    causal = calibrator.calibrate(*test_set.inputs, causal=True).predictions
    before, after = scores_of(affine(*test_set.inputs), test_set), scores_of(causal, test_set)
    assert after["arousal"].overall_ccc > before["arousal"].overall_ccc + 0.01
    assert after["arousal"].average_ccc > before["arousal"].average_ccc + 0.005


def test_an_unknown_speaker_gets_the_map_for_everyone(calibrator, affine, test_set):
    predictions, speaker_ids, pooled = test_set.inputs
    nobody = [None if place % 2 else speaker for place, speaker in enumerate(speaker_ids)]
    calibration = calibrator.calibrate(predictions, nobody, pooled, causal=True)
    np.testing.assert_allclose(calibration.predictions[1::2], affine(*test_set.inputs)[1::2])
    assert sum(speaker.utterances for speaker in calibration.speakers) == len(predictions[::2])
    only = calibrator.calibrate(predictions, [None] * len(predictions), pooled)
    assert only.speakers == ()
    assert calibrator.calibrate(predictions[:0], [], pooled[:0]).predictions.shape == (0, 2)


def test_missing_labels_count_attribute_by_attribute(bank, validation):
    labels = validation.labels.copy()
    labels[::3, 0] = NAN
    labels[validation.speaker >= 30, 1] = NAN
    both = PosteriorCalibrator(bank).fit(*validation.inputs, labels)
    for column, attribute in enumerate(ATTRIBUTES):
        predictions, speaker_ids, pooled = validation.inputs
        alone = PosteriorCalibrator(bank, [attribute]).fit(
            predictions[:, [column]], speaker_ids, pooled, labels[:, [column]]
        )
        np.testing.assert_allclose(
            both(*validation.inputs)[:, [column]], alone(predictions[:, [column]], speaker_ids, pooled)
        )
    kept = validation.speaker < 30
    predictions, speaker_ids, pooled = (np.array(array)[kept] for array in validation.inputs)
    fewer = PosteriorCalibrator(bank, ["valence"]).fit(predictions[:, [1]], speaker_ids, pooled, labels[kept][:, [1]])
    assert fewer.fitted["valence"].amounts == both.fitted["valence"].amounts
    np.testing.assert_allclose(fewer.fitted["valence"].rematch.slope, both.fitted["valence"].rematch.slope)


def test_validation_utterances_of_unknown_speakers_are_left_out(bank, validation, calibrator, test_set):
    predictions, speaker_ids, pooled = validation.inputs
    more = PosteriorCalibrator(bank).fit(
        np.vstack([predictions, predictions + 9]),
        [*speaker_ids, *[None] * len(predictions)],
        np.vstack([pooled, pooled]),
        np.vstack([validation.labels, validation.labels]),
    )
    np.testing.assert_allclose(more(*test_set.inputs), calibrator(*test_set.inputs))


def test_one_utterance_a_speaker(bank):
    train, validation, test_set = (people(name, 80, seed, fewest=1, most=1) for seed, name in enumerate("abc", 20))
    for of_train in (bank, SpeakerBank.from_utterances(*train.inputs[1:], train.labels, ATTRIBUTES)):
        fitted = PosteriorCalibrator(of_train).fit(*validation.inputs, validation.labels)
        for causal in (False, True):
            assert np.isfinite(fitted.calibrate(*test_set.inputs, causal=causal).predictions).all()


def test_constant_predictions_and_constant_labels(bank, validation, calibrator, test_set):
    predictions, speaker_ids, pooled = validation.inputs
    for constant in (predictions * 0 + 3.3, predictions):
        for labels in (validation.labels, validation.labels * 0 + 2.2):
            fitted = PosteriorCalibrator(bank).fit(constant, speaker_ids, pooled, labels)
            assert np.isfinite(fitted(*test_set.inputs)).all()
            assert np.isfinite(fitted(test_set.inputs[0] * 0 + 3.3, *test_set.inputs[1:])).all()
    assert np.isfinite(calibrator(test_set.inputs[0] * 0 + 3.3, *test_set.inputs[1:])).all()


def test_a_voice_unlike_any_other_is_corrected_no_more_than_validation_speakers_were(calibrator, validation, test_set):
    predictions, speaker_ids, pooled = test_set.inputs
    far = calibrator.calibrate(predictions, speaker_ids, pooled * 1e6)
    assert np.isfinite(far.predictions).all()
    of_validation = calibrator.calibrate(*validation.inputs).predictions
    assert np.abs(far.predictions - 4).max() < 2 * np.abs(of_validation - 4).max()


def test_attributes_in_another_order_than_the_banks(bank, validation, calibrator, test_set):
    reverse = PosteriorCalibrator(bank, ("valence", "arousal")).fit(
        validation.inputs[0][:, ::-1], *validation.inputs[1:], validation.labels[:, ::-1]
    )
    calibration = reverse.calibrate(test_set.inputs[0][:, ::-1], *test_set.inputs[1:])
    assert calibration.attributes == ("valence", "arousal")
    np.testing.assert_allclose(calibration.predictions[:, ::-1], calibrator(*test_set.inputs))


def test_tensors_are_as_good_as_arrays(bank, validation, calibrator, test_set):
    predictions, speaker_ids, pooled = validation.inputs
    fitted = PosteriorCalibrator(bank).fit(
        torch.tensor(predictions), speaker_ids, torch.tensor(pooled), torch.tensor(validation.labels)
    )
    np.testing.assert_allclose(fitted(*test_set.inputs), calibrator(*test_set.inputs))


def test_not_fitted(bank, test_set):
    with pytest.raises(UserError, match=r"not fitted\. Call fit\(\.\.\.\) with the validation set first"):
        PosteriorCalibrator(bank).calibrate(*test_set.inputs)


def test_what_cannot_be_fitted(bank, validation):
    predictions, speaker_ids, pooled = validation.inputs
    broken = predictions.copy()
    broken[7, 1] = np.inf
    four = np.where(validation.speaker[:, None] < 4, validation.labels, NAN)
    unlabelled = SpeakerBank.from_utterances(
        speaker_ids, pooled, np.where([True, False], NAN, validation.labels), ATTRIBUTES
    )
    nobody = SpeakerBank.from_utterances([], np.empty((0, 6)), np.empty((0, 2)), ATTRIBUTES)
    for where, attributes, inputs, labels, message in (
        (
            bank,
            ("anger", "valence"),
            validation.inputs,
            validation.labels,
            "predictions of anger, valence.*Build a bank",
        ),
        (nobody, None, validation.inputs, validation.labels, "holds no speaker"),
        (unlabelled, None, validation.inputs, validation.labels, "no training speaker has a label of arousal"),
        (bank, None, (predictions, speaker_ids, pooled[:, :5]), validation.labels, "are not .*one row an utterance"),
        (bank, None, (broken, speaker_ids, pooled), validation.labels, "validation 000.*prediction of utterance 7"),
        (bank, None, validation.inputs, validation.labels[:, :1], r"labels \(\d+, 1\) are not"),
        (bank, None, validation.inputs, four, "4 validation speakers have labels of arousal, and 5 is the least"),
    ):
        with pytest.raises(UserError, match=message):
            PosteriorCalibrator(where, attributes).fit(*inputs, labels)


def test_what_cannot_be_calibrated(calibrator, test_set):
    predictions, speaker_ids, pooled = test_set.inputs
    with pytest.raises(UserError, match="test 000: the pooled vector of utterance 3 holds NaN"):
        calibrator.calibrate(predictions, speaker_ids, np.where(np.arange(len(pooled))[:, None] == 3, NAN, pooled))
    with pytest.raises(UserError, match="are not"):
        calibrator.calibrate(predictions[:, :1], speaker_ids, pooled)
