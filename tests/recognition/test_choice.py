from __future__ import annotations

import numpy as np
import pytest

from ser_personal import PosteriorCalibrator, SpeakerBank
from ser_personal.calibration.table import PredictedSet
from ser_personal.recognition.export import best, by_left_out_posteriors, can_leave_out, causally

ATTRIBUTES = ("arousal",)


@pytest.fixture
def heard():
    """Twelve speakers who are off by a constant each."""
    rng = np.random.default_rng(0)
    speaker = np.repeat(np.arange(12), 15)
    labels = 4 + rng.normal(size=(180, 1))
    predictions = labels + rng.normal(size=12)[speaker, None] + 0.3 * rng.normal(size=(180, 1))
    pooled = rng.normal(size=(12, 3))[speaker] + 0.1 * rng.normal(size=(180, 3))
    return PredictedSet(predictions, tuple(f"s{one:02}" for one in speaker), pooled, labels)


def test_the_greatest_gain_wins_and_no_gain_wins_nothing(heard):
    better, best_of_all = (0.5 * share * heard.labels + (1 - 0.5 * share) * heard.predictions for share in (1, 2))
    assert best({"none": heard.predictions, "pldc": better, "posterior": best_of_all}, heard, ATTRIBUTES) == "posterior"
    worse = heard.predictions + 1
    assert best({"none": heard.predictions, "pldc": worse}, heard, ATTRIBUTES) == "none"
    assert best({"none": heard.predictions, "pldc": heard.predictions + 1e-4}, heard, ATTRIBUTES) == "none"


def test_what_lowers_one_of_the_two_scores_is_not_chosen(heard):
    """Everyone's mean right, but turned around within each speaker for half of them: O-CCC rises, A-CCC falls."""
    speaker = np.array(heard.speaker_ids)
    means = np.array([heard.labels[speaker == one].mean() for one in speaker])[:, None]
    spread = PredictedSet(heard.predictions, heard.speaker_ids, heard.pooled, heard.labels + 9 * (means - means.mean()))
    flat = spread.labels.copy()
    for one in set(heard.speaker_ids):
        rows = speaker == one
        flat[rows] = spread.labels[rows].mean() + 0.2 * (spread.predictions[rows] - spread.predictions[rows].mean())
    assert best({"none": spread.predictions, "pldc": flat}, spread, ATTRIBUTES) == "none"


def test_a_speakers_posterior_knows_nothing_of_the_speakers_labels(heard):
    rng = np.random.default_rng(1)
    bank = SpeakerBank.from_utterances(
        [f"t{row % 30}" for row in range(300)], rng.normal(size=(300, 3)), rng.normal(4, 1, (300, 1)), ATTRIBUTES
    )
    mine = np.array(heard.speaker_ids) == "s04"
    other = heard.labels.copy()
    other[mine] = 1 + 0.1 * other[mine]
    changed = PredictedSet(heard.predictions, heard.speaker_ids, heard.pooled, other)
    before, after = (by_left_out_posteriors(bank, ATTRIBUTES, one) for one in (heard, changed))
    np.testing.assert_array_equal(before[mine], after[mine])
    assert np.abs(before[~mine] - after[~mine]).max() > 1e-3
    everyone = PosteriorCalibrator(bank).fit(heard.predictions, heard.speaker_ids, heard.pooled, heard.labels)
    whole = everyone.calibrate(heard.predictions, heard.speaker_ids, heard.pooled, causal=True)
    assert np.abs(whole.predictions - before).max() > 1e-3


def test_a_posterior_takes_six_speakers_with_labels_of_everything(heard):
    bank = SpeakerBank.from_utterances(["a", "b"], np.ones((2, 3)), np.array([[4.0], [5.0]]), ATTRIBUTES)
    speaker = np.array(heard.speaker_ids)
    assert can_leave_out(bank, ATTRIBUTES, heard.part(speaker < "s06"))
    assert not can_leave_out(bank, ATTRIBUTES, heard.part(speaker < "s05"))
    unlabelled = SpeakerBank.from_utterances(["a"], np.ones((1, 3)), np.array([[np.nan]]), ATTRIBUTES)
    assert not can_leave_out(unlabelled, ATTRIBUTES, heard)


def test_each_utterance_is_calibrated_by_what_its_speaker_has_said(heard):
    counts = causally(lambda _, profile: np.array([float(profile.utterances)]), heard)
    assert counts[:, 0].tolist() == list(range(1, 16)) * 12
