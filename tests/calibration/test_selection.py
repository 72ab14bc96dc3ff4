from __future__ import annotations

import numpy as np
import pytest

from ser_personal.calibration.controls import AffineMap
from ser_personal.calibration.posterior import check_labels, choose, labelled_speakers
from ser_personal.errors import UserError
from ser_personal.scores import score

NAN = float("nan")


def validation(seed=0, utterances=20):
    """Eight speakers; -> ids, labels, and predictions that err on each speaker by a constant."""
    rng = np.random.default_rng(seed)
    speaker = np.repeat(np.arange(8), utterances)
    labels = 4 + rng.normal(size=8)[speaker] + rng.normal(size=len(speaker))
    biases = rng.normal(size=8)[speaker]
    return [f"s{number}" for number in speaker], labels, labels + biases + 0.5 * rng.normal(size=len(speaker)), biases


def test_the_greatest_gain_wins_and_its_map_for_everyone_counts_for_nothing():
    speaker_ids, labels, predictions, biases = validation()
    better = [predictions, predictions - 0.3 * biases, 0.1 * (predictions - biases) + 7, predictions - 0.6 * biases]
    assert choose(np.column_stack(better), [0, 1, 1, 1], labels, speaker_ids) == 2
    assert choose(np.column_stack([predictions, 3 * predictions - 1]), [0, 1], labels, speaker_ids) == 0


def test_strength_has_its_price():
    speaker_ids, labels, predictions, biases = validation()
    candidates = np.column_stack([predictions, predictions - biases])
    assert choose(candidates, [0, 1], labels, speaker_ids, price=0.0) == 1
    assert choose(candidates, [0, 1], labels, speaker_ids, price=1000.0) == 0
    twice = np.column_stack([predictions, predictions - biases, predictions - biases])
    assert choose(twice, [0, 2, 1], labels, speaker_ids) == 2


def test_what_lowers_either_score_is_not_taken_however_much_it_raises_the_other():
    speaker_ids, labels, predictions, biases = validation()
    rng = np.random.default_rng(2)
    talker = 4 + rng.normal(size=600)
    speaker_ids, labels = [*speaker_ids, *["talker"] * 600], np.append(labels, talker)
    before = np.append(predictions, talker + 0.1 * rng.normal(size=600))
    # good for eight speakers, bad for the one who says the most
    after = np.append(predictions - biases, talker + 0.5 * rng.normal(size=600))
    candidates, repeated = np.column_stack([before, after]), np.column_stack([labels, labels])
    matched = AffineMap.fit(candidates, repeated)(candidates, (), candidates)
    first, second = score(matched, repeated, speaker_ids, ["first", "second"]).values()
    lost, gained = first.overall_ccc - second.overall_ccc, second.average_ccc - first.average_ccc
    assert gained > lost + 0.01 > 0.01
    assert choose(candidates, [0, 0], labels, speaker_ids) == 0


def test_speakers_of_few_labels_are_judged_by_the_overall_score_alone():
    speaker_ids, labels, predictions, biases = validation(utterances=4)
    assert choose(np.column_stack([predictions, predictions - biases]), [0, 1], labels, speaker_ids) == 1


def test_constant_predictions_gain_nothing():
    speaker_ids, labels, _, _ = validation()
    assert choose(np.full((len(labels), 3), 4.0), [0, 0, 0], labels, speaker_ids) == 0
    assert choose(np.full((len(labels), 3), 4.0), [0, 0, 0], np.full(len(labels), 4.0), speaker_ids) == 0


def test_missing_labels_and_unknown_speakers_are_left_out():
    speaker_ids, labels, predictions, biases = validation()
    labels[::3] = NAN
    candidates = np.column_stack([predictions, predictions - biases])
    assert choose(candidates, [0, 1], labels, [None, *speaker_ids[1:]]) == 1


def test_labelled_speakers_by_attribute():
    labels = np.array([[1.0, NAN], [NAN, NAN], [2.0, 3.0], [1.0, 1.0]])
    assert labelled_speakers(["a", "b", "a", None], labels) == [{"a"}, {"a"}]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros((4, 1)), r"labels \(4, 1\) are not finite numbers or NaN, \(6, 1\)"),
        (np.full((6, 1), np.inf), "not finite numbers or NaN"),
        (np.array([[1.0]] * 4 + [[NAN]] * 2), r"4 validation speakers have labels of arousal, and 5.*more validation"),
    ],
)
def test_labels_that_nothing_can_be_chosen_by(labels, message):
    with pytest.raises(UserError, match=message):
        check_labels(list("abcdef"), labels, ["arousal"])
