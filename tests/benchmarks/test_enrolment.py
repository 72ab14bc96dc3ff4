from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from enrolment import EVALUATED, HEARD, Line, calibrators_of, enrol, joined
from enrolment_scores import coverage, gains, weighted_scores

from ser_personal.calibration.pldc import calibrate
from ser_personal.calibration.table import PredictedSet
from ser_personal.errors import UserError
from ser_personal.scores import score
from ser_personal.types import ATTRIBUTES

ORDERS = 2


def predicted(name: str, speakers: int, utterances: int = 60) -> PredictedSet:
    rng = np.random.default_rng([*name.encode()])
    voices = rng.normal(size=(speakers, 1, 8))
    levels, spreads = 4 + 0.5 * rng.normal(size=(speakers, 1, 3)), rng.uniform(0.5, 1.5, (speakers, 1, 3))
    labels = levels + spreads * rng.normal(size=(speakers, utterances, 3))
    predictions = 0.6 * labels + 1 + 0.3 * rng.normal(size=labels.shape) + 0.3 * rng.normal(size=levels.shape)
    pooled = voices + 0.1 * rng.normal(size=(speakers, utterances, 8))
    ids = np.repeat([f"{name}{number}" for number in range(speakers)], utterances)
    flat = [values.reshape(speakers * utterances, -1) for values in (predictions, pooled, labels)]
    return PredictedSet(flat[0], tuple(ids.tolist()), flat[1], flat[2])


FOLD = {"train": predicted("t", 20), "validation": predicted("v", 6), "test1": predicted("n", 4)}


@pytest.fixture(scope="module")
def enrolled():
    return enrol(FOLD["test1"], *calibrators_of(FOLD, ORDERS), ORDERS)


def test_pldc_of_the_last_utterances_is_its_equation_with_the_moments_of_the_first(enrolled) -> None:
    pldc, _ = calibrators_of(FOLD, ORDERS)
    test = FOLD["test1"]
    for number, speaker in enumerate(enrolled.speaker_ids):
        own = np.flatnonzero(np.array(test.speaker_ids) == speaker)
        last = [np.flatnonzero((test.labels == row).all(axis=1))[0] for row in enrolled.labels[1, number]]
        first = np.random.default_rng([1, *speaker.encode()]).permutation(own)[: HEARD[2]]
        assert set(last) < set(own) - set(first)
        one = calibrate(
            test.predictions[first], [speaker] * len(first), test.pooled[first], pldc.bank, shift_mean=True
        ).speakers[0]
        expected = (test.predictions[last] - one.mu) / one.sigma * one.sigma_bar + one.mu_bar
        np.testing.assert_allclose(enrolled.predictions["both"][2, 1, number], expected)


def test_nothing_heard_is_an_unknown_speaker(enrolled) -> None:
    for name in ("raw", "mu", "sigma", "both", "population", "random_speakers", "own_statistics"):
        np.testing.assert_allclose(enrolled.predictions[name][0], enrolled.predictions["raw"][0])
    np.testing.assert_allclose(enrolled.predictions["posterior"][0], enrolled.predictions["affine"][0])


def test_the_same_utterances_are_evaluated_whatever_was_heard(enrolled) -> None:
    raw = enrolled.predictions["raw"]
    assert raw.shape == (len(HEARD), ORDERS, 4, EVALUATED, 3)
    for stage in range(1, len(HEARD)):
        np.testing.assert_allclose(raw[stage], raw[0])


def test_what_is_evaluated_is_never_heard() -> None:
    test = FOLD["test1"]
    calibrators = calibrators_of(FOLD, ORDERS)
    before = enrol(test, *calibrators, ORDERS)
    rows = np.flatnonzero((test.labels[:, None] == before.labels[0, 0]).all(axis=2).any(axis=1))
    changed = replace(test, pooled=test.pooled.copy())
    changed.pooled[rows] += 100.0
    after = enrol(changed, *calibrators, ORDERS)
    for name, predictions in before.predictions.items():
        np.testing.assert_array_equal(after.predictions[name][:, 0], predictions[:, 0])


def test_a_speaker_of_few_utterances() -> None:
    few = predicted("few", 2, utterances=59)
    with pytest.raises(UserError, match="speaker few0: 59 labelled utterances"):
        enrol(few, *calibrators_of(FOLD, ORDERS), ORDERS)


def test_a_line_through_equal_predictions_only_moves() -> None:
    line = Line.through(np.full((3, 1), 2.0), np.full((3, 1), 5.0))
    np.testing.assert_allclose(line(np.array([[2.0], [3.0]])), [[5.0], [6.0]])


def test_weighted_scores_are_the_scores_of_repeated_speakers(enrolled) -> None:
    times = np.array([2, 0, 1, 1])
    predictions, labels = enrolled.predictions["both"], enrolled.labels
    found = weighted_scores(predictions, labels, times[None] / times.sum())[0]
    drawn = np.repeat(np.arange(4), times)
    ids = np.repeat([str(copy) for copy in range(4)], EVALUATED).tolist()
    for stage in range(len(HEARD)):
        expected = [
            [
                (one.overall_ccc, one.average_ccc)
                for one in score(
                    predictions[stage, order][drawn].reshape(-1, 3),
                    labels[order][drawn].reshape(-1, 3),
                    ids,
                    ATTRIBUTES,
                ).values()
            ]
            for order in range(ORDERS)
        ]
        np.testing.assert_allclose(found[:, stage], np.mean(expected, axis=0).T)


def test_gains_are_over_raw_and_lie_in_their_interval(enrolled) -> None:
    measured = gains(enrolled)
    raw, both = measured["raw"], measured["both"]
    np.testing.assert_array_equal([raw.gain, raw.low, raw.high], 0.0)
    np.testing.assert_allclose(both.gain, both.scores - raw.scores)
    assert (both.low <= both.gain).all()
    assert (both.gain <= both.high).all()


def test_coverage_by_hand(enrolled) -> None:
    others = enrol(predicted("o", 12), *calibrators_of(FOLD, ORDERS), ORDERS)
    scale = (2.0, 5.0)
    covered = coverage([enrolled], [others], "raw", 0, wanted=0.8, scale=scale)
    widths, inside = [], []
    for order in range(ORDERS):
        errors = np.sort(np.abs(others.predictions["raw"][0, order] - others.labels[order])[..., 0], axis=None)
        # 12 speakers of 20 utterances: 0.8 of 13 speakers are 10.4 speakers, 208 utterances
        half = errors[207]
        predictions = enrolled.predictions["raw"][0, order][..., 0]
        widths.append([max(0.0, min(p + half, 5.0) - max(p - half, 2.0)) for p in predictions.ravel()])
        inside.append((np.abs(predictions - enrolled.labels[order][..., 0]) <= half).mean(axis=1))
    assert covered.widths[0] == pytest.approx(np.mean(widths))
    np.testing.assert_allclose(covered.shares[:, 0], np.mean(inside, axis=0))


def test_too_few_speakers_have_the_whole_scale(enrolled) -> None:
    covered = coverage([enrolled], [enrolled], "raw", 0, wanted=0.9, scale=(1.0, 7.0))
    np.testing.assert_allclose(covered.shares, 1.0)
    np.testing.assert_allclose(covered.widths, 6.0)


def test_joined_speakers_stand_side_by_side(enrolled) -> None:
    both = joined([enrolled, enrolled])
    assert both.speaker_ids == enrolled.speaker_ids * 2
    np.testing.assert_array_equal(both.labels[:, 4:], enrolled.labels)
    np.testing.assert_array_equal(both.predictions["mu"][:, :, 4:], enrolled.predictions["mu"])
