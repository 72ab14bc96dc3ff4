import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from garbage import refused
from sklearn.linear_model import Ridge as Sklearn

from ser_personal import PosteriorCalibrator, SpeakerBank
from ser_personal.calibration import posterior
from ser_personal.calibration.controls import AffineMap
from ser_personal.scores import score

ATTRIBUTES = ("arousal", "valence")
NAN = float("nan")


def people(prefix, num_speakers, seed, strength=0.95, fewest=5, most=60):
    """Speakers whose voice predicts mean and log std of the labels of arousal; nothing predicts those of valence."""
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
    inputs = predictions, [f"{prefix} {number:03}" for number in speaker], voices[speaker]
    return SimpleNamespace(inputs=inputs, labels=means[speaker] + within, speaker=speaker)


TRAIN, VALIDATION, TEST = people("train", 300, 1), people("validation", 40, 2), people("test", 60, 3)
BANK = SpeakerBank.from_utterances(*TRAIN.inputs[1:], TRAIN.labels, ATTRIBUTES)
AFFINE = AffineMap.fit(VALIDATION.inputs[0], VALIDATION.labels)


@pytest.fixture(scope="module")
def calibrator():
    return PosteriorCalibrator(BANK).fit(*VALIDATION.inputs, VALIDATION.labels)


def gains(after, before, people):
    """Attribute -> gains (O-CCC, A-CCC)."""
    former, latter = (score(values, people.labels, people.inputs[1], ATTRIBUTES) for values in (before, after))
    kinds = ("overall_ccc", "average_ccc")
    return {a: [getattr(latter[a], kind) - getattr(former[a], kind) for kind in kinds] for a in ATTRIBUTES}


def test_both_scores_gain_where_voices_predict_labels_and_the_affine_map_is_left_where_not(calibrator):
    calibrated, expected = calibrator(*TEST.inputs), AFFINE(*TEST.inputs)
    gained = gains(calibrated, expected, TEST)
    assert min(gained["arousal"]) > 0.01
    assert calibrator.fitted["arousal"].mean.amount >= 0.5
    assert np.abs(calibrated - expected)[:, 1].mean() < 0.05 * expected[:, 1].std()
    assert min(gained["valence"]) > -0.002


def test_without_a_map_for_everyone_that_helps_speakers_whom_it_was_not_fitted_on_predictions_keep_their_moments():
    # predictions follow the labels of all but one of six speakers, who would shift the map for the others
    rng = np.random.default_rng(0)
    speaker = np.repeat(np.arange(6), 15)
    labels = 4 + rng.normal(0, 0.3, (6, 2))[speaker] + rng.normal(size=(90, 2))
    predictions = labels + 0.3 * rng.normal(size=labels.shape)
    labels[speaker == 5] += 2
    names, pooled = [f"s{number}" for number in speaker], rng.normal(size=(6, 6))[speaker]
    fitted = PosteriorCalibrator(BANK).fit(predictions, names, pooled, labels)
    np.testing.assert_array_equal(fitted(predictions, [None] * 90, pooled), predictions)
    found = fitted(predictions, names, pooled)
    np.testing.assert_allclose([found.mean(0), found.std(0)], [predictions.mean(0), predictions.std(0)])


def test_no_harm_on_average_over_corpora_without_a_link():
    changes = []
    for seed in range(4):
        train = people("train", 100, seed + 100, strength=0.0)
        validation, test_set = (people(str(start), 40, seed + start, strength=0.0) for start in (200, 300))
        bank = SpeakerBank.from_utterances(train.inputs[1], train.inputs[2], train.labels, ATTRIBUTES)
        calibrator = PosteriorCalibrator(bank).fit(*validation.inputs, validation.labels)
        affine = AffineMap.fit(validation.inputs[0], validation.labels)
        changes += gains(calibrator(*test_set.inputs), affine(*test_set.inputs), test_set).values()
    assert (np.mean(changes, axis=0) > -0.003).all()


def test_a_speaker_is_calibrated_alone_in_any_order_and_an_unknown_one_by_the_map_for_everyone(calibrator):
    predictions, speaker_ids, pooled = TEST.inputs
    calibrated, everyone = calibrator(*TEST.inputs), AFFINE(*TEST.inputs)
    order = np.random.default_rng(4).permutation(np.flatnonzero(TEST.speaker % 3 == 0))
    np.testing.assert_allclose(calibrator(*(np.array(array)[order] for array in TEST.inputs)), calibrated[order])
    nobody = [None if number % 3 else speaker for number, speaker in zip(TEST.speaker, speaker_ids, strict=True)]
    expected = np.where(TEST.speaker[:, None] % 3, everyone, calibrated)
    np.testing.assert_allclose(calibrator(predictions, nobody, pooled), expected)
    assert calibrator.calibrate(predictions[:0], [], pooled[:0]).predictions.shape == (0, 2)
    # the validation set gets the moments of its labels
    found = calibrator(*VALIDATION.inputs)
    np.testing.assert_allclose([found.mean(0), found.std(0)], [VALIDATION.labels.mean(0), VALIDATION.labels.std(0)])


def test_attributes_count_each_by_itself_and_unknown_speakers_nowhere():
    predictions, speaker_ids, pooled = VALIDATION.inputs
    labels = VALIDATION.labels.copy()
    labels[::3, 0] = NAN
    labels[VALIDATION.speaker >= 30, 1] = NAN
    given = torch.tensor(np.vstack([predictions, predictions + 9])).flip(1), [*speaker_ids, *[None] * len(predictions)]
    given += torch.tensor(np.vstack([pooled, pooled])), torch.tensor(np.vstack([labels, labels])).flip(1)
    both = PosteriorCalibrator(BANK, ("valence", "arousal")).fit(*given)
    values, *others = TEST.inputs
    found = both(values[:, ::-1], *others)
    for column, attribute in enumerate(ATTRIBUTES):
        alone = PosteriorCalibrator(BANK, [attribute])
        alone.fit(predictions[:, [column]], speaker_ids, pooled, labels[:, [column]])
        np.testing.assert_allclose(found[:, [1 - column]], alone(values[:, [column]], *others))


def test_constant_predictions_or_labels_and_one_utterance_a_speaker_give_finite_values():
    predictions, speaker_ids, pooled = VALIDATION.inputs
    train, few, others = (people(name, 80, seed, fewest=1, most=1) for seed, name in enumerate("abc", 20))
    small = SpeakerBank.from_utterances(*train.inputs[1:], train.labels, ATTRIBUTES)
    sets = [(BANK, (predictions * 0 + 3.3, speaker_ids, pooled), VALIDATION.labels, TEST)]
    sets += [(BANK, VALIDATION.inputs, VALIDATION.labels * 0 + 2.2, TEST), (small, few.inputs, few.labels, others)]
    for of_train, inputs, labels, tested in sets:
        fitted = PosteriorCalibrator(of_train).fit(*inputs, labels)
        for values in (tested.inputs[0], tested.inputs[0] * 0 + 3.3):
            assert np.isfinite(fitted(values, *tested.inputs[1:])).all()


def test_a_voice_unlike_any_other_is_corrected_no_more_than_validation_speakers_were(calibrator):
    predictions, speaker_ids, pooled = TEST.inputs
    far, of_validation = calibrator(predictions, speaker_ids, pooled * 1e6), calibrator(*VALIDATION.inputs)
    assert np.abs(far - 4).max() < 2 * np.abs(of_validation - 4).max()


def test_what_can_be_neither_fitted_nor_calibrated():
    inputs, labels = VALIDATION.inputs, VALIDATION.labels
    four = np.where(VALIDATION.speaker[:, None] < 4, labels, NAN)
    unlabelled = SpeakerBank.from_utterances(*inputs[1:], np.where([True, False], NAN, labels), ATTRIBUTES)
    for calibrator, given, message in (
        (PosteriorCalibrator(BANK, ("anger", "valence")), labels, "predictions of anger, valence.*Build a b"),
        (PosteriorCalibrator(unlabelled), labels, "0 training and 40 validation speakers .* of arousal"),
        (PosteriorCalibrator(BANK), four, "300 training and 4 validation speakers have labels of arousal"),
        (PosteriorCalibrator(BANK), labels[:, :1], r"labels \(\d+, 1\) must have shape"),
    ):
        refused(message, calibrator.fit, *inputs, given)
        refused("not fitted", calibrator.calibrate, *inputs)


@pytest.mark.parametrize(("rows", "width"), [(15, 3), (12, 40)])
def test_left_out_speakers_are_predicted_by_fits_without_them(rows, width):
    rng = np.random.default_rng(rows)
    x = rng.normal(size=(rows, width)) * np.linspace(0.5, 2, width) + 3
    values = x @ rng.normal(size=width) + rng.normal(size=rows) + 5
    targets = posterior.Estimates(values, rng.integers(1, 40, rows), 3.0)
    weights = posterior.Shrinkage.fit(targets).precisions(targets.counts)
    ridge, left_out = posterior.fit_ridge(x, targets)
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


def chosen(candidates, amounts, labels, speaker_ids):
    matched = AffineMap.fit(candidates, np.broadcast_to(labels[:, None], candidates.shape)).apply(candidates)
    return posterior.choose(matched, amounts, labels, speaker_ids)


def test_the_greatest_gain_wins_that_lowers_neither_score_and_its_map_for_everyone_counts_for_nothing():
    rng = np.random.default_rng(0)
    # predictions err on each of eight speakers by a constant
    speaker = np.repeat(np.arange(8), 20)
    speaker_ids, labels = [f"s{number}" for number in speaker], 4 + rng.normal(size=8)[speaker] + rng.normal(size=160)
    biases = rng.normal(size=8)[speaker]
    predictions = labels + biases + 0.5 * rng.normal(size=160)
    better = [predictions, predictions - 0.3 * biases, 0.1 * (predictions - biases) + 7, predictions - 0.6 * biases]
    assert chosen(np.column_stack(better), [[0], [1], [1], [1]], labels, speaker_ids) == 2
    assert chosen(np.column_stack([predictions, 3 * predictions - 1]), [[0], [1]], labels, speaker_ids) == 0
    assert chosen(np.full((160, 3), 4.0), [[0]] * 3, labels, speaker_ids) == 0
    twice = np.column_stack([predictions, predictions - biases, predictions - biases])
    assert chosen(twice, [[0], [2], [1]], labels, speaker_ids) == 2
    # good for eight speakers, bad for the one who says the most
    rng = np.random.default_rng(2)
    talker = 4 + rng.normal(size=600)
    before = np.append(predictions, talker + 0.1 * rng.normal(size=600))
    after = np.append(predictions - biases, talker + 0.5 * rng.normal(size=600))
    candidates, repeated = np.column_stack([before, after]), np.tile(np.append(labels, talker)[:, None], 2)
    speaker_ids += ["talker"] * 600
    matched = AffineMap.fit(candidates, repeated).apply(candidates)
    first, second = score(matched, repeated, speaker_ids, ["first", "second"]).values()
    lost, gained = first.overall_ccc - second.overall_ccc, second.average_ccc - first.average_ccc
    assert gained > lost + 0.01 > 0.01
    assert chosen(candidates, [[0]] * 2, repeated[:, 0], speaker_ids) == 0


def test_what_is_read_calibrates_as_what_was_fitted_and_names_no_speaker(calibrator, tmp_path):
    path = tmp_path / "p.json"
    posterior.save_posterior(calibrator.fitted, path)
    again = PosteriorCalibrator(calibrator.bank)
    again.fitted = posterior.load_posterior(path)
    np.testing.assert_array_equal(again(*TEST.inputs), calibrator(*TEST.inputs))
    # vectors of 6, and at most three numbers of everyone together
    assert {one.count(",") + 1 for one in re.findall(r"\[([^\[\]]*)\]", path.read_text())} == {1, 2, 3, 6}
