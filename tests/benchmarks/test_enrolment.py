from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from enrolment import EVALUATED, HEARD, calibrators_of, enrol
from enrolment_scores import weighted_scores

from ser_personal.calibration.pldc import calibrate
from ser_personal.calibration.table import PredictedSet
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


def test_what_is_evaluated_is_never_heard() -> None:
    test = FOLD["test1"]
    calibrators = calibrators_of(FOLD, ORDERS)
    before = enrol(test, *calibrators, ORDERS)
    rows = np.flatnonzero((test.labels[:, None] == before.labels[0, 0]).all(axis=2).any(axis=1))
    changed = replace(test, pooled=test.pooled.copy())
    changed.pooled[rows] += 100.0
    after = enrol(changed, *calibrators, ORDERS)
    raw = before.predictions["raw"]
    np.testing.assert_allclose(raw, np.broadcast_to(raw[0], (len(HEARD), ORDERS, 4, EVALUATED, 3)))
    for name, predictions in before.predictions.items():
        np.testing.assert_array_equal(after.predictions[name][:, 0], predictions[:, 0])


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
