from __future__ import annotations

import inspect
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge as Sklearn

from ser_personal import PosteriorCalibrator, SpeakerBank
from ser_personal.calibration import posterior
from ser_personal.calibration.controls import AffineMap
from ser_personal.calibration.posterior import (
    Correction,
    Estimates,
    Shrinkage,
    choose,
    fit_ridge,
    load_posterior,
    mean_and_log_std,
    save_posterior,
)
from ser_personal.errors import UserError
from ser_personal.scores import Moments, score

ATTRIBUTES = ("arousal", "valence")
NAN = float("nan")


def people(prefix, num_speakers, seed, strength=0.95, fewest=5, most=60):
    """Speakers whose voice predicts mean and log std of the labels of arousal; nothing predicts those of valence.

    The model follows the labels of both, errs on each speaker by a constant and a gain, and is off for everyone.
    """
    rng = np.random.default_rng(seed)
    speaker = np.repeat(np.arange(num_speakers), rng.integers(fewest, most + 1, num_speakers))
    voices = rng.normal(size=(num_speakers, 6))
    directions = np.random.default_rng(99).normal(size=(6, 2))
    predicted = voices @ (directions / np.linalg.norm(directions, axis=0))
    mixed = strength * predicted + np.sqrt(1 - strength**2) * rng.normal(size=(num_speakers, 2))
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


def gains(after, before, people):
    """Attribute -> gains (O-CCC, A-CCC)."""
    scores = [score(predictions, people.labels, people.inputs[1], ATTRIBUTES) for predictions in (before, after)]
    kinds = ("overall_ccc", "average_ccc")
    return {
        name: [getattr(scores[1][name], kind) - getattr(scores[0][name], kind) for kind in kinds] for name in ATTRIBUTES
    }


def part(inputs, rows):
    return [np.array(array)[rows] for array in inputs]


@pytest.mark.parametrize(("causal", "least"), [(False, [0.01, 0.01]), (True, [0.01, 0.005])])
def test_where_voices_predict_the_labels_both_scores_gain(calibrator, affine, test_set, causal, least):
    calibrated = calibrator.calibrate(*test_set.inputs, causal=causal).predictions
    assert (np.array(gains(calibrated, affine(*test_set.inputs), test_set)["arousal"]) > least).all()
    assert calibrator.fitted["arousal"].mean.amount >= 0.5


def test_where_voices_predict_nothing_the_affine_map_is_left(affine, calibrator, test_set):
    calibrated, expected = calibrator(*test_set.inputs), affine(*test_set.inputs)
    assert "labels" not in inspect.signature(PosteriorCalibrator.calibrate).parameters
    assert np.abs(calibrated - expected)[:, 1].mean() < 0.05 * expected[:, 1].std()
    assert min(gains(calibrated, expected, test_set)["valence"]) > -0.002


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
        changes += gains(calibrator(*test_set.inputs), affine(*test_set.inputs), test_set).values()
    assert (np.mean(changes, axis=0) > -0.003).all()


def test_planted_moments_of_a_speaker_are_recovered(calibrator, affine, test_set):
    calibration = calibrator.calibrate(*test_set.inputs)
    for number, speaker in enumerate(calibration.speakers):
        predicted = test_set.inputs[0][test_set.speaker == number]
        assert (speaker.speaker_id, speaker.utterances) == (f"test {number:03}", len(predicted))
        np.testing.assert_allclose([speaker.mu, speaker.sigma], [predicted.mean(axis=0), predicted.std(axis=0)])
    estimated = np.array([speaker.mu_bar[0] for speaker in calibration.speakers])
    own = affine.slope[0] * np.array([speaker.mu[0] for speaker in calibration.speakers]) + affine.intercept[0]
    error, error_of_own = (np.mean((estimate - test_set.means[:, 0]) ** 2) for estimate in (estimated, own))
    assert error < 0.6 * error_of_own
    assert error < 0.2**2
    estimated = np.log([speaker.sigma_bar[0] for speaker in calibration.speakers])
    assert np.corrcoef(estimated, np.log(test_set.stds[:, 0]))[0, 1] > 0.85


def test_validation_predictions_get_the_moments_of_their_labels(calibrator, validation):
    calibrated = calibrator(*validation.inputs)
    np.testing.assert_allclose(calibrated.mean(axis=0), validation.labels.mean(axis=0))
    np.testing.assert_allclose(calibrated.std(axis=0), validation.labels.std(axis=0))


@pytest.mark.parametrize("causal", [False, True])
def test_no_test_speaker_matters_to_another(calibrator, test_set, causal):
    calibrated = calibrator.calibrate(*test_set.inputs, causal=causal).predictions
    for rows in (np.flatnonzero(test_set.speaker % 3 == 0), np.argsort(-test_set.speaker, kind="stable")):
        found = calibrator.calibrate(*part(test_set.inputs, rows), causal=causal).predictions
        np.testing.assert_allclose(found, calibrated[rows])


def test_order_within_a_speaker_matters_only_where_time_does(calibrator, test_set):
    order = np.random.default_rng(4).permutation(len(test_set.speaker))
    shuffled = part(test_set.inputs, order)
    np.testing.assert_allclose(calibrator(*shuffled), calibrator(*test_set.inputs)[order])
    causal = calibrator.calibrate(*shuffled, causal=True).predictions
    assert not np.allclose(causal, calibrator.calibrate(*test_set.inputs, causal=True).predictions[order])


def test_causal_is_calibration_of_what_was_said_so_far(calibrator, test_set):
    inputs = part(test_set.inputs, np.random.default_rng(5).permutation(len(test_set.speaker)))
    causal = calibrator.calibrate(*inputs, causal=True).predictions
    for so_far in (1, 2, 50, len(causal)):
        np.testing.assert_allclose(causal[so_far - 1], calibrator(*part(inputs, slice(so_far)))[-1])


def test_an_unknown_speaker_gets_the_map_for_everyone(calibrator, affine, test_set):
    predictions, speaker_ids, pooled = test_set.inputs
    nobody = [None if place % 2 else speaker for place, speaker in enumerate(speaker_ids)]
    calibration = calibrator.calibrate(predictions, nobody, pooled, causal=True)
    np.testing.assert_allclose(calibration.predictions[1::2], affine(*test_set.inputs)[1::2])
    assert sum(speaker.utterances for speaker in calibration.speakers) == len(predictions[::2])
    only = calibrator.calibrate(predictions, [None] * len(predictions), pooled)
    assert only.speakers == ()
    assert calibrator.calibrate(predictions[:0], [], pooled[:0]).predictions.shape == (0, 2)


def test_tensors_unknown_speakers_and_another_order_of_attributes_change_nothing(
    bank, validation, calibrator, test_set
):
    predictions, speaker_ids, pooled = validation.inputs
    more = PosteriorCalibrator(bank, ("valence", "arousal")).fit(
        torch.tensor(np.vstack([predictions, predictions + 9])[:, ::-1].copy()),
        [*speaker_ids, *[None] * len(predictions)],
        torch.tensor(np.vstack([pooled, pooled])),
        torch.tensor(np.vstack([validation.labels, validation.labels])[:, ::-1].copy()),
    )
    calibration = more.calibrate(test_set.inputs[0][:, ::-1], *test_set.inputs[1:])
    assert calibration.attributes == ("valence", "arousal")
    np.testing.assert_allclose(calibration.predictions[:, ::-1], calibrator(*test_set.inputs))


def test_missing_labels_count_attribute_by_attribute(bank, validation):
    labels = validation.labels.copy()
    labels[::3, 0] = NAN
    labels[validation.speaker >= 30, 1] = NAN
    both = PosteriorCalibrator(bank).fit(*validation.inputs, labels)
    for column, attribute in enumerate(ATTRIBUTES):
        inputs = validation.inputs[0][:, [column]], *validation.inputs[1:]
        alone = PosteriorCalibrator(bank, [attribute]).fit(*inputs, labels[:, [column]])
        np.testing.assert_allclose(both(*validation.inputs)[:, [column]], alone(*inputs))
    kept = validation.speaker < 30
    predictions, speaker_ids, pooled = part(validation.inputs, kept)
    fewer = PosteriorCalibrator(bank, ["valence"]).fit(predictions[:, [1]], speaker_ids, pooled, labels[kept][:, [1]])
    for moment in ("mean", "log_std"):
        assert getattr(fewer.fitted["valence"], moment).amount == getattr(both.fitted["valence"], moment).amount
    np.testing.assert_allclose(fewer.fitted["valence"].rematch.slope, both.fitted["valence"].rematch.slope)


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


def test_what_cannot_be_fitted(bank, validation):
    predictions, speaker_ids, pooled = validation.inputs
    broken = predictions.copy()
    broken[7, 1] = np.inf
    four = np.where(validation.speaker[:, None] < 4, validation.labels, NAN)
    unlabelled = SpeakerBank.from_utterances(
        speaker_ids, pooled, np.where([True, False], NAN, validation.labels), ATTRIBUTES
    )
    nobody = SpeakerBank.from_utterances([], np.empty((0, 6)), np.empty((0, 2)), ATTRIBUTES)
    inputs, labels = validation.inputs, validation.labels
    others = PosteriorCalibrator(bank, ("anger", "valence"))
    for calibrator, changed, message in (
        (others, (*inputs, labels), "predictions of anger, valence.*Build a bank"),
        (PosteriorCalibrator(nobody), (*inputs, labels), "holds no speaker"),
        (PosteriorCalibrator(unlabelled), (*inputs, labels), "no training speaker has a label of arousal"),
        (PosteriorCalibrator(bank), (*inputs[:2], pooled[:, :5], labels), "are not .*one row per utterance"),
        (PosteriorCalibrator(bank), (broken, *inputs[1:], labels), "validation 000.*prediction of utterance 7"),
        (PosteriorCalibrator(bank), (*inputs, labels[:, :1]), r"labels \(\d+, 1\) must have shape"),
        (
            PosteriorCalibrator(bank),
            (*inputs, four),
            "4 validation speakers have labels of arousal, 5 are needed",
        ),
    ):
        with pytest.raises(UserError, match=message):
            calibrator.fit(*changed)


def test_what_cannot_be_calibrated(bank, calibrator, test_set):
    with pytest.raises(UserError, match=r"not fitted\. Call fit\(\.\.\.\) with the validation set first"):
        PosteriorCalibrator(bank).calibrate(*test_set.inputs)
    predictions, speaker_ids, pooled = test_set.inputs
    with pytest.raises(UserError, match="test 000: the pooled vector of utterance 3 holds NaN"):
        calibrator.calibrate(predictions, speaker_ids, np.where(np.arange(len(pooled))[:, None] == 3, NAN, pooled))
    with pytest.raises(UserError, match="are not"):
        calibrator.calibrate(predictions[:, :1], speaker_ids, pooled)


def speakers(voice_noise, number=400):
    """What voice and predictions each say of true means, with an error of their own, and these means."""
    rng = np.random.default_rng(0)
    counts, true = rng.integers(5, 200, number).astype(float), 4 + 0.5 * rng.normal(size=number)
    own, voice = true + 0.2 * rng.normal(size=number), true + voice_noise * rng.normal(size=number)
    return Estimates(own, counts, 0.0), Estimates(voice, counts, 0.0), Estimates(true, counts, 0.0)


def test_predictions_and_voice_are_weighed_by_their_precision_and_an_unrelated_voice_by_nothing():
    own, voice, true = speakers(voice_noise=0.2)
    estimate, residual = Correction.fit(None, own, voice, true)[0](own, voice.values)
    # precisions 25, 25 and, of what is usual, 4
    expected = (25 * own.values + 25 * voice.values + 4 * 4.0) / 54
    np.testing.assert_allclose(estimate, own.values)
    assert np.sqrt(np.mean((estimate + residual - expected) ** 2)) < 0.02
    unrelated = voice._replace(values=np.random.default_rng(1).permutation(voice.values))
    assert abs(Correction.fit(None, own, unrelated, true)[0].regression.coefficients[1]) < 0.05


def test_no_correction_exceeds_those_it_was_fitted_on_and_one_speaker_is_what_is_predicted():
    own, voice, true = speakers(voice_noise=0.2, number=30)
    correction = Correction.fit(None, own, voice, true)[0]
    fitted, far, near = (correction(own, voice.values + off)[1] for off in (0, 1000, -1000))
    assert (far.max(), near.min()) == pytest.approx((fitted.max(), fitted.min()))
    ridge, left_out = fit_ridge(np.array([[1.0, 2.0]]), Estimates(np.array([4.0]), np.ones(1), 1.0))
    assert ridge(np.array([[7.0, -7.0]])).tolist() == left_out.tolist() == [4]


def sample(number, between, within):
    """Speakers of 2 to 40 utterances; -> their true means, and the moments measured."""
    rng = np.random.default_rng(0)
    counts, true = rng.integers(2, 41, number), 4 + between * rng.normal(size=number)
    values = np.repeat(true, counts) + within * rng.normal(size=counts.sum())
    rows = np.split(np.arange(counts.sum()), counts.cumsum()[:-1])
    return true, Moments.by_speaker(values, dict(enumerate(rows)))


def test_shrunken_means_are_nearer_to_the_true_ones_most_where_utterances_are_few():
    true, moments = sample(4000, 0.5, 0.9)
    mean, _ = mean_and_log_std(moments)
    shrinkage = Shrinkage.fit(mean)
    assert (mean.within_variance, shrinkage.between_variance) == (
        pytest.approx(0.9**2, rel=0.02),
        pytest.approx(0.5**2, rel=0.1),
    )
    assert shrinkage.center == pytest.approx(4, abs=0.02)
    gain = (mean.values - true) ** 2 - (shrinkage.center + shrinkage(mean) - true) ** 2
    few = moments.count < 6
    assert gain[few].mean() > 5 * gain[~few].mean() > 0


def test_shrinkage_by_hand():
    # a quarter of the variance is the speaker's own at one utterance, a half at three
    shrinkage = Shrinkage(center=4.0, between_variance=1.0, within_variance=3.0)
    np.testing.assert_allclose(shrinkage(Estimates(np.full(2, 5.0), np.array([1, 3]), 3.0)), [0.25, 0.5])
    chance = Estimates(np.random.default_rng(1).normal(size=50), np.full(50, 10), within_variance=10.0)
    assert np.abs(Shrinkage.fit(chance)(chance)).max() < 0.01


def test_precisions_grow_with_counts_and_no_faster():
    values, counts = np.array([1.0, 3.0, 5.0, 2.0]), np.array([1.0, 2.0, 4.0, 1e6])
    weights = Shrinkage.fit(Estimates(values, counts, 1.0)).precisions(counts)
    assert (np.diff(weights) > 0).all()
    assert weights[-1] == 1
    assert (weights[1:] / weights[:-1] <= counts[1:] / counts[:-1]).all()


def test_log_std_of_few_utterances_is_finite_and_hardly_biased():
    alone = Moments.of(np.zeros((1, 1)))
    assert mean_and_log_std(alone, within_variance=0.25)[1].values[0] == pytest.approx(np.log(0.5))
    assert np.isfinite(mean_and_log_std(alone)[1].values).all()
    drawn = 2 * np.random.default_rng(2).normal(size=(5, 20_000))
    ours = mean_and_log_std(Moments.of(drawn))[1].values.mean()
    assert abs(ours - np.log(2)) < abs(np.log(drawn.std(axis=0)).mean() - np.log(2)) / 3


@pytest.mark.parametrize(("rows", "width"), [(15, 3), (12, 40)])
def test_left_out_speakers_are_predicted_by_fits_without_them(rows, width):
    rng = np.random.default_rng(rows)
    x = rng.normal(size=(rows, width)) * np.linspace(0.5, 2, width) + 3
    targets = Estimates(x @ rng.normal(size=width) + rng.normal(size=rows) + 5, rng.integers(1, 40, rows), 3.0)
    weights = Shrinkage.fit(targets).precisions(targets.counts)
    ridge, left_out = fit_ridge(x, targets)
    # the penalty is found again by trying those that it may be
    spread = weights @ (x - np.average(x, axis=0, weights=weights)) ** 2
    for strength in posterior.RIDGE_PENALTIES:
        model = Sklearn(alpha=strength * spread.sum() / min(x.shape)).fit(x, targets.values, sample_weight=weights)
        if np.allclose(model.coef_, ridge.coefficients):
            break
    np.testing.assert_allclose(ridge(x), model.predict(x))
    for row in range(rows):
        kept = np.arange(rows) != row
        model.fit(x[kept], targets.values[kept], sample_weight=weights[kept])
        assert left_out[row] == pytest.approx(model.predict(x[[row]])[0], rel=1e-6)


def labelled(utterances=20):
    """Eight speakers; -> ids, labels, and predictions that err on each speaker by a constant."""
    rng = np.random.default_rng(0)
    speaker = np.repeat(np.arange(8), utterances)
    labels = 4 + rng.normal(size=8)[speaker] + rng.normal(size=len(speaker))
    biases = rng.normal(size=8)[speaker]
    return [f"s{number}" for number in speaker], labels, labels + biases + 0.5 * rng.normal(size=len(speaker)), biases


def test_the_greatest_gain_wins_and_its_map_for_everyone_counts_for_nothing(monkeypatch):
    speaker_ids, labels, predictions, biases = labelled()
    better = [predictions, predictions - 0.3 * biases, 0.1 * (predictions - biases) + 7, predictions - 0.6 * biases]
    assert choose(np.column_stack(better), [0, 1, 1, 1], labels, speaker_ids) == 2
    assert choose(np.column_stack([predictions, 3 * predictions - 1]), [0, 1], labels, speaker_ids) == 0
    twice = np.column_stack([predictions, predictions - biases, predictions - biases])
    assert choose(twice, [0, 2, 1], labels, speaker_ids) == 2
    monkeypatch.setattr(posterior, "CORRECTION_PENALTY", 1000.0)
    assert choose(twice, [0, 2, 1], labels, speaker_ids) == 0


def test_what_lowers_either_score_is_not_taken_however_much_it_raises_the_other():
    speaker_ids, labels, predictions, biases = labelled()
    rng = np.random.default_rng(2)
    talker = 4 + rng.normal(size=600)
    speaker_ids, labels = [*speaker_ids, *["talker"] * 600], np.append(labels, talker)
    before = np.append(predictions, talker + 0.1 * rng.normal(size=600))
    # good for eight speakers, bad for the one who says the most
    after = np.append(predictions - biases, talker + 0.5 * rng.normal(size=600))
    candidates, repeated = np.column_stack([before, after]), np.column_stack([labels, labels])
    matched = AffineMap.fit(candidates, repeated).apply(candidates)
    first, second = score(matched, repeated, speaker_ids, ["first", "second"]).values()
    lost, gained = first.overall_ccc - second.overall_ccc, second.average_ccc - first.average_ccc
    assert gained > lost + 0.01 > 0.01
    assert choose(candidates, [0, 0], labels, speaker_ids) == 0


@pytest.mark.parametrize("utterances", [4, 20])
def test_missing_labels_and_speakers_of_few_are_no_obstacle(utterances):
    speaker_ids, labels, predictions, biases = labelled(utterances)
    labels[::3] = NAN
    assert choose(np.column_stack([predictions, predictions - biases]), [0, 1], labels, speaker_ids) == 1
    assert choose(np.full((len(labels), 3), 4.0), [0, 0, 0], labels, speaker_ids) == 0


def test_what_is_read_calibrates_as_what_was_fitted(calibrator, test_set, tmp_path):
    save_posterior(calibrator.fitted, tmp_path / "p.json")
    again = PosteriorCalibrator(calibrator.bank)
    again.fitted = load_posterior(tmp_path / "p.json")
    for causal in (False, True):
        ours, theirs = (one.calibrate(*test_set.inputs, causal=causal) for one in (again, calibrator))
        np.testing.assert_array_equal(ours.predictions, theirs.predictions)


def test_nothing_of_single_speakers_is_written(calibrator, tmp_path):
    save_posterior(calibrator.fitted, tmp_path / "p.json")

    def lists(content):
        if isinstance(content, list):
            yield content
        for value in content.values() if isinstance(content, dict) else content if isinstance(content, list) else ():
            yield from lists(value)

    # vectors of 6, and at most three numbers of everyone together
    assert {len(one) for one in lists(json.loads((tmp_path / "p.json").read_text()))} == {1, 2, 3, 6}


@pytest.mark.parametrize(
    ("edit", "what"),
    [
        (lambda content: content | {"version": 1}, "posterior of format 1; this version reads format 2. Export"),
        (lambda content: content | {"attributes": {"arousal": {}}}, "isn't a posterior file"),
        (lambda _: [], "isn't a posterior file"),
    ],
)
def test_what_is_no_posterior(calibrator, tmp_path, edit, what):
    path = tmp_path / "p.json"
    save_posterior(calibrator.fitted, path)
    path.write_text(json.dumps(edit(json.loads(path.read_text()))))
    with pytest.raises(UserError, match=what):
        load_posterior(path)
    path.write_text(path.read_text()[:-3])
    with pytest.raises(UserError, match="isn't a posterior file"):
        load_posterior(path)
