from __future__ import annotations

import json

import numpy as np
import pytest

from ser_personal.calibration.conformal import ConformalTable, intervals_as_json
from ser_personal.calibration.table import PredictedSet

SCALE = (1.0, 7.0)


def people(speakers, utterances, seed):
    """Speakers whose errors differ in size, with a missing label each; an unknown one is off by much."""
    rng = np.random.default_rng(seed)
    labels = rng.uniform(2, 6, size=(speakers * utterances, 1))
    size = np.repeat(rng.uniform(0.2, 1.0, speakers), utterances)[:, None]
    predictions = labels + size * rng.normal(size=labels.shape)
    labels[::utterances] = np.nan
    ids = [f"s{row // utterances}" for row in range(len(labels))]
    unknown = np.array([[99.0]])
    return PredictedSet(
        np.concatenate([predictions, unknown]),
        (*ids, None),
        np.zeros((len(ids) + 1, 2)),
        np.concatenate([labels, [[1]]]),
    )


def test_shares_are_counted_speaker_by_speaker():
    validation, test = people(12, 20, 0), people(7, 20, 1)
    told = intervals_as_json(validation, test, ("arousal",), SCALE)
    table = ConformalTable.fit(validation.predictions, validation.labels, validation.speaker_ids, ("arousal",))
    width = table.half_width("arousal", 0)
    shares = []
    for speaker in range(7):
        held = [
            abs(prediction - label) <= width
            for prediction, label, own in zip(test.predictions[:, 0], test.labels[:, 0], test.speaker_ids, strict=True)
            if own == f"s{speaker}" and not np.isnan(label)
        ]
        assert len(held) == 19
        shares.append(sum(held) / 19)
    of = told["attributes"]["arousal"]
    assert of["half_width"] == width
    assert of["mean"] == pytest.approx(np.mean(shares))
    assert of["of_speakers"] == pytest.approx(np.quantile(shares, [0, 0.1, 0.5, 0.9, 1]))
    assert 0 < of["mean_width"] <= 2 * width
    assert (told["validation_speakers"], told["speakers_needed"]) == (12, 9)


def test_too_few_validation_speakers_tell_no_width():
    told = intervals_as_json(people(8, 20, 0), people(3, 20, 1), ("arousal",), SCALE)
    of = told["attributes"]["arousal"]
    assert (of["half_width"], of["mean"], of["mean_width"]) == (None, 1.0, 6.0)
    json.dumps(told, allow_nan=False)


def test_a_set_without_labels():
    test = people(3, 5, 0)
    test.labels[:] = np.nan
    told = intervals_as_json(people(12, 20, 0), test, ("arousal",), SCALE)
    assert told["attributes"]["arousal"]["mean"] is None
    json.dumps(told, allow_nan=False)
