import json
from math import inf, isinf

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ser_personal.calibration import conformal
from ser_personal.calibration.conformal import ConformalTable, HalfWidths
from ser_personal.calibration.table import PredictedSet

ERRORS = st.tuples(st.integers(0, 30), st.integers(0, 12))


def slow_quantile(errors, speakers, coverage):
    """The definition: least value that a share `coverage` of the weights reaches, each speaker 1 / (K + 1)."""
    groups = [[e for e, s in zip(errors, speakers, strict=True) if s == g] for g in sorted(set(speakers))]
    for value in sorted(errors):
        weight = sum(sum(e <= value for e in group) / len(group) for group in groups) / (len(groups) + 1)
        if weight >= coverage - 1e-10:
            return value
    return inf


@given(st.lists(ERRORS, min_size=1, max_size=60), st.sampled_from([0.5, 0.8, 0.9]))
def test_the_quantile_is_the_definitions(pairs, coverage):
    errors, speakers = np.array([error / 7 for error, _ in pairs]), np.array([str(speaker) for _, speaker in pairs])
    found = conformal.conformal_quantile(errors, speakers, coverage)
    assert found == slow_quantile(errors.tolist(), list(speakers), coverage)
    assert isinf(found) == (len(set(speakers)) < conformal.speakers_needed(coverage))


def draw(rng, speakers, most):
    """Exchangeable speakers: each with an own bias, spread and number of utterances."""
    ids, predictions, labels = [], [], []
    for speaker in range(speakers):
        said, bias, spread = rng.integers(2, most), rng.normal(), rng.gamma(2.0)
        truth = rng.normal(4, 1, size=said)
        ids += [str(speaker)] * said
        labels += truth.tolist()
        predictions += (truth + bias + spread * rng.normal(size=said)).tolist()
    return ids, np.array(predictions)[:, None], np.array(labels)[:, None]


def test_new_speakers_utterances_are_covered_as_often_as_promised():
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(300):
        ids, predictions, labels = draw(rng, 25, 30)
        table = ConformalTable.fit(predictions, labels, ids, ["arousal"], coverage=0.8)
        new, predicted, truth = draw(rng, 4, 30)
        inside = np.abs(predicted - truth)[:, 0] <= table.half_width("arousal", 0)
        covered += [inside[np.array(new) == speaker].mean() for speaker in set(new)]
    error = np.std(covered) / np.sqrt(len(covered))
    assert np.mean(covered) > 0.8 - 3 * error
    # and not by being far too wide: at most one speaker's worth more
    assert np.mean(covered) < 0.8 + 1 / 26 + 3 * error


def test_bins_of_too_few_speakers_join_the_one_below_and_come_back_from_disk(tmp_path):
    rows = [(speaker, n) for speaker in range(10) for n in range(4)]
    rows += [(speaker, n) for speaker in range(3) for n in (5, 10)]
    # what has no label or no speaker counts nowhere
    ids, utterances = [*(str(speaker) for speaker, _ in rows), None, "0"], [*(n for _, n in rows), 1, 1]
    predictions = np.array([[float(n)] for n in utterances[:-2]] + [[99.0]] * 2)
    labels = np.array([[0.0]] * (len(rows) + 1) + [[np.nan]])
    table = ConformalTable.fit(predictions, labels, ids, ["valence"], utterances=utterances)
    assert table.attributes["valence"] == HalfWidths((0, 1, 2), (0.0, 1.0, 10.0), (10, 10, 10))
    assert [table.half_width("valence", n) for n in (0, 1, 2, 3, 100)] == [0, 1, 10, 10, 10]
    # raw and first utterances stay apart, however few
    few = ConformalTable.fit(np.zeros((9, 1)), np.zeros((9, 1)), ["a", "b", "c"] * 3, ["v"], utterances=[0, 1, 2] * 3)
    assert few.attributes["v"] == HalfWidths((0, 1), (inf, inf), (1, 2))
    for each in (table, few):
        each.save(tmp_path / "conformal.json")
        assert ConformalTable.load(tmp_path / "conformal.json") == each
    assert "Infinity" not in (tmp_path / "conformal.json").read_text()


def some_set(speakers, seed):
    """Speakers with a missing label each, and an unknown one who is off by much."""
    ids, predictions, labels = draw(np.random.default_rng(seed), speakers, 30)
    labels[[ids.index(str(speaker)) for speaker in range(speakers)]] = np.nan
    predictions, labels = np.append(predictions, [[99.0]], axis=0), np.append(labels, [[1.0]], axis=0)
    return PredictedSet(predictions, (*ids, None), np.zeros((len(labels), 2)), labels)


def test_shares_are_counted_speaker_by_speaker():
    validation, test = some_set(12, 0), some_set(7, 1)
    found = conformal.intervals_as_json(validation, test, ("arousal",), (1.0, 7.0))
    table = ConformalTable.fit(validation.predictions, validation.labels, validation.speaker_ids, ("arousal",))
    width, errors = table.half_width("arousal", 0), np.abs(test.predictions - test.labels)[:, 0]
    own = [errors[[speaker == str(n) for speaker in test.speaker_ids]] for n in range(7)]
    shares = [np.mean(each[~np.isnan(each)] <= width) for each in own]
    its = found["attributes"]["arousal"]
    assert its["half_width"] == width
    assert its["mean"] == pytest.approx(np.mean(shares))
    assert its["of_speakers"] == pytest.approx(np.quantile(shares, [0, 0.1, 0.5, 0.9, 1]))
    assert 0 < its["mean_width"] <= 2 * width
    assert (found["validation_speakers"], found["speakers_needed"]) == (12, 9)
    test.labels[:] = np.nan
    found = conformal.intervals_as_json(some_set(8, 0), test, ("arousal",), (1.0, 7.0))
    its = found["attributes"]["arousal"]
    assert (its["half_width"], its["mean"], its["mean_width"]) == (None, None, 6.0)
    json.dumps(found, allow_nan=False)
