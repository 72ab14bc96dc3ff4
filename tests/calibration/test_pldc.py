import math
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from garbage import refused
from hypothesis import given
from hypothesis import strategies as st

from ser_personal import SpeakerBank, calibrate
from ser_personal.calibration.pldc import PLDCSettings

ATTRIBUTES = ("arousal", "valence")
NAN = float("nan")
VARIANTS = [(False, False), (True, False), (False, True), (True, True)]


def some_bank(num_speakers=12, seed=0):
    rng = np.random.default_rng(seed)
    speakers = rng.integers(0, num_speakers, 30 * num_speakers)
    voices, means = rng.normal(size=(num_speakers, 8)), rng.uniform(2, 6, (num_speakers, 2))
    labels = (means[speakers] + rng.normal(size=(len(speakers), 2))).clip(1, 7)
    labels[rng.random(labels.shape) < 0.1] = NAN
    pooled = voices[speakers] + 0.1 * rng.normal(size=(len(speakers), 8))
    return SpeakerBank.from_utterances([f"train {s:02}" for s in speakers], pooled, labels, ATTRIBUTES)


def some_test_set(num=40, seed=1):
    rng = np.random.default_rng(seed)
    speaker_ids = [None if s == 3 else f"test {s}" for s in rng.integers(0, 4, num)]
    return rng.normal(4, 1, (num, 2)), speaker_ids, rng.normal(size=(num, 8))


BANK = some_bank()


def slow_calibrate(predictions, speaker_ids, pooled, bank, k, shift_mean, scale_std, statistics, center):
    """The equation, number by number -> predictions, and speaker -> utterances, neighbours, cosines and moments."""
    origin = [sum(column) / len(column) for column in bank.vectors.T] if center else [0.0] * bank.vectors.shape[1]
    result, described = [list(row) for row in predictions], {}
    for speaker in sorted({s for s in speaker_ids if s is not None}):
        rows = [i for i, s in enumerate(speaker_ids) if s == speaker]
        vector = [sum(pooled[i][d] for i in rows) / len(rows) - origin[d] for d in range(len(origin))]
        ranking = []
        for row, training_vector in enumerate(bank.vectors):
            other = [value - origin[d] for d, value in enumerate(training_vector)]
            dot = sum(a * b for a, b in zip(vector, other, strict=True))
            lengths = math.sqrt(sum(a * a for a in vector)) * math.sqrt(sum(b * b for b in other))
            ranking.append((-dot / lengths, bank.speaker_ids[row], row))
        cosines, names, nearest = (list(column) for column in zip(*sorted(ranking)[:k], strict=True))
        moments = []
        for a in range(predictions.shape[1]):
            own = [predictions[i][a] for i in rows]
            mu = sum(own) / len(own)
            sigma = math.sqrt(sum((y - mu) ** 2 for y in own) / len(own))
            counts, means, stds = bank.count[nearest, a], bank.label_mean[nearest, a], bank.label_std[nearest, a]
            if statistics == "average":
                mu_bar, sigma_bar = sum(means) / len(means), sum(stds) / len(stds)
            else:
                mu_bar = sum(counts * means) / sum(counts)
                sigma_bar = math.sqrt(sum(counts * (stds**2 + means**2)) / sum(counts) - mu_bar**2)
            moments.append((mu, sigma, mu_bar, sigma_bar))
            for i in rows:
                y = (predictions[i][a] - mu) / sigma * (sigma_bar if scale_std else sigma)
                result[i][a] = y + (mu_bar if shift_mean else mu)
        described[speaker] = (len(rows), names, [-cosine for cosine in cosines], moments)
    return result, described


@pytest.mark.parametrize("statistics", ["average", "pooled"])
@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("k", [1, 5, 100])
def test_agrees_with_a_slow_loop(statistics, center, k):
    predictions, speaker_ids, pooled = some_test_set()
    known = np.array([s is not None for s in speaker_ids])
    for shift_mean, scale_std in VARIANTS:
        switches = {"shift_mean": shift_mean, "scale_std": scale_std, "statistics": statistics, "center": center}
        expected, described = slow_calibrate(predictions, speaker_ids, pooled, BANK, k=k, **switches)
        found = calibrate(predictions, speaker_ids, pooled, BANK, k=k, **switches)
        np.testing.assert_allclose(found.predictions, expected, rtol=1e-9)
        clipped = calibrate(predictions, speaker_ids, pooled, BANK, k=k, clip=True, **switches).predictions
        np.testing.assert_array_equal(clipped[known], found.predictions[known].clip(1, 7))
        np.testing.assert_array_equal(clipped[~known], predictions[~known])
    assert [speaker.speaker_id for speaker in found.speakers] == list(described)
    for speaker, (utterances, names, cosines, moments) in zip(found.speakers, described.values(), strict=True):
        assert (speaker.utterances, list(speaker.neighbours)) == (utterances, names)
        np.testing.assert_allclose(speaker.cosines, cosines)
        of_speaker = [speaker.mu, speaker.sigma, speaker.mu_bar, speaker.sigma_bar]
        np.testing.assert_allclose(np.transpose(of_speaker), moments)


def test_default_is_the_sigma_shift_of_fifteen_averaged_neighbours_of_arrays_or_tensors():
    predictions, speaker_ids, pooled = some_test_set()
    bank = some_bank(30)
    default = {"k": 15, "shift_mean": False, "scale_std": True, "statistics": "average", "center": False}
    expected, _ = slow_calibrate(predictions, speaker_ids, pooled, bank, **default)
    found = calibrate(torch.tensor(predictions), speaker_ids, torch.tensor(pooled), bank)
    np.testing.assert_allclose(found.predictions, expected)
    valence = calibrate(predictions[:, 1:], speaker_ids, pooled, bank, attributes=["valence"])
    np.testing.assert_array_equal(valence.predictions, found.predictions[:, 1:])
    variants = [PLDCSettings(shift_mean=mean, scale_std=std).variant for mean, std in VARIANTS]
    assert variants == ["raw", "mu", "sigma", "both"]
    assert calibrate(np.zeros((0, 2)), [], np.zeros((0, 8)), BANK).predictions.shape == (0, 2)


@given(seed=st.integers(0, 1000), variant=st.sampled_from(VARIANTS))
def test_order_of_utterances_and_names_of_speakers_do_not_matter(seed, variant):
    predictions, speaker_ids, pooled = some_test_set(seed=seed)
    switches = dict(zip(("shift_mean", "scale_std"), variant, strict=True))
    plain = calibrate(predictions, speaker_ids, pooled, BANK, **switches).predictions
    order = np.random.default_rng(seed).permutation(len(speaker_ids))
    shuffled_ids = [speaker_ids[i] for i in order]
    shuffled = calibrate(predictions[order], shuffled_ids, pooled[order], BANK, **switches).predictions
    np.testing.assert_allclose(shuffled, plain[order], atol=1e-12)
    names = {"test 0": "z", "test 1": "y", "test 2": "x", None: None}
    renamed = calibrate(predictions, [names[s] for s in speaker_ids], pooled, BANK, **switches).predictions
    np.testing.assert_array_equal(renamed, plain)


def test_equally_near_speakers_are_taken_by_name():
    names = [f"{i:03}" for i in np.random.default_rng(0).permutation(300)]
    query, near, far = np.random.default_rng(1).normal(size=(3, 17))
    vectors = np.array([query + 0.1 * near if int(name) % 3 else far for name in names])
    bank = SpeakerBank.from_utterances(names, vectors, np.ones((300, 1)), ["arousal"])
    expected = sorted(names, key=lambda name: (int(name) % 3 == 0, name))
    for k in (3, 150, 250, 300):
        assert list(calibrate([[4.0]], ["t"], query[None], bank, k=k).speakers[0].neighbours) == expected[:k]


@pytest.mark.parametrize("predictions", [[[4.1, 2.0]], [[0.1, 0.3]] * 7, [[4.1 + 1e-7, 2.0], [4.1, 2.0 + 1e-7]]])
def test_where_there_is_nothing_to_scale_the_deviation_stays(predictions):
    predictions = np.array(predictions)
    inputs = predictions, ["t"] * len(predictions), np.ones((len(predictions), 8)), BANK
    np.testing.assert_allclose(calibrate(*inputs).predictions, predictions, rtol=1e-15)
    both = calibrate(*inputs, shift_mean=True)
    np.testing.assert_allclose(both.predictions.mean(axis=0), both.speakers[0].mu_bar)
    np.testing.assert_allclose(both.predictions.std(axis=0), predictions.std(axis=0), atol=1e-15)


@pytest.mark.parametrize(("low", "high"), [(-1, 1), (0, 1), (0, 100)])
def test_another_label_scale_changes_nothing_else_and_rounding_is_never_scaled_up(low, high):
    def to_scale(values):
        return low + (values - 1) * (high - low) / 6

    predictions, speaker_ids, pooled = some_test_set()
    # one speaker's vary by rounding, close to 0 on a scale around it
    rounded = np.array(speaker_ids) == "test 1"
    predictions[rounded] = 4.03 + np.random.default_rng(0).uniform(-3e-7, 3e-7, (rounded.sum(), 2))
    labels, bank_of = some_test_set(seed=2)[0], partial(SpeakerBank.from_utterances, speaker_ids, pooled)
    banks = [bank_of(labels, ATTRIBUTES, (1, 7)), bank_of(to_scale(labels), ATTRIBUTES, (low, high))]
    expected = calibrate(predictions, speaker_ids, pooled, banks[0]).predictions
    np.testing.assert_allclose(expected[rounded], predictions[rounded])
    found = calibrate(to_scale(predictions), speaker_ids, pooled, banks[1]).predictions
    np.testing.assert_allclose(found, to_scale(expected), atol=1e-12)


@pytest.mark.parametrize("statistics", ["average", "pooled"])
def test_neighbours_of_no_or_few_labels_are_left_out_and_raw_is_kept_where_none_is_left(statistics):
    labels = np.array([[1.0, NAN], [3.0, NAN], [7.0, NAN], [NAN, NAN]])
    bank = SpeakerBank.from_utterances(["a", "a", "b", "c"], np.ones((4, 2)), labels, ATTRIBUTES)
    predictions = np.array([[4.0, 5.0], [5.0, 3.0]])

    def of(min_labels):
        switches = {"shift_mean": True, "statistics": statistics, "min_labels": min_labels}
        return calibrate(predictions, ["t"] * 2, np.ones((2, 2)), bank, **switches)

    # the deviation of b's single label, 0, is averaged in; two labels are asked for; nobody has three
    if statistics == "average":
        assert of(1).speakers[0].sigma_bar[0] == 0.5
    np.testing.assert_allclose(of(2).predictions, [[1.0, 5.0], [3.0, 3.0]])
    np.testing.assert_allclose(of(2).speakers[0].mu_bar, [2, NAN])
    np.testing.assert_array_equal(of(3).predictions, predictions)


def test_mistakes_are_one_line_each():
    predictions, speaker_ids, pooled = some_test_set()
    broken, where, infinite = predictions.copy(), speaker_ids.index("test 2"), pooled.copy()
    broken[where], infinite[speaker_ids.index(None), 0] = NAN, np.inf
    empty = SpeakerBank.from_utterances([None], np.ones((1, 8)), np.ones((1, 2)), ATTRIBUTES)
    inputs = {"predictions": predictions, "speaker_ids": pd.Series(speaker_ids, index=range(9, 49)), "pooled": pooled}
    given = partial(calibrate, **inputs, bank=BANK)
    refused(f"speaker test 2: the prediction of utterance {where} holds NaN", given, predictions=broken)
    refused("an unknown speaker: the pooled vector", given, pooled=infinite)
    refused("the bank holds no speaker", given, bank=empty)
    refused(r"attributes: is text. Give a list, such as \['arousal'\]", given, attributes="arousal")
    line = "of arousal, dominance, but label statistics of arousal, valence"
    refused(line, given, attributes=("arousal", "dominance"))
    refused(r"predictions \(40, 1\)", given, predictions=predictions[:, :1])
    refused(r"are not \(39, 2\)", given, speaker_ids=speaker_ids[:-1])
    refused(r"pooled \(40, 7\)", given, pooled=pooled[:, :-1])
    refused("k: 0 is out of range", given, k=0)
    refused("pldc.statistics: there is no 'median'. Give one of average, pooled", given, statistics="median")


@pytest.mark.parametrize(("shift_mean", "scale_std"), VARIANTS)
def test_each_variant_is_invariant_to_the_moments_that_it_replaces(shift_mean, scale_std):
    predictions, speaker_ids, pooled = some_test_set()
    moved = predictions.copy()
    for speaker in {*speaker_ids} - {None}:
        rows = [each == speaker for each in speaker_ids]
        mean = predictions[rows].mean(axis=0)
        moved[rows] = mean + 1.7 * (predictions[rows] - mean) + 0.6
    options = {"k": 3, "shift_mean": shift_mean, "scale_std": scale_std}
    found = [calibrate(each, speaker_ids, pooled, BANK, **options).predictions for each in (predictions, moved)]
    for speaker in {*speaker_ids} - {None}:
        before, after = (each[[one == speaker for one in speaker_ids]] for each in found)
        mean = before.mean(axis=0)
        expected = mean + (1 if scale_std else 1.7) * (before - mean) + (0 if shift_mean else 0.6)
        np.testing.assert_allclose(after, expected, atol=1e-9)


def test_a_bank_and_a_calibration_say_what_they_are_without_a_value():
    calibration = calibrate(*some_test_set(), BANK)
    assert repr(calibration) == f"Calibration(40 utterances of {len(calibration.speakers)} speakers: arousal, valence)"
    assert repr(BANK).endswith("speakers, arousal, valence from 1 to 7; vectors of 8)")
