import json
import math

import audmetric
import numpy as np
import pytest
from garbage import refused

from ser_personal.files import write_json
from ser_personal.scores import Moments, as_json, from_json, mean_scores, score


@pytest.fixture
def table():
    rng = np.random.default_rng(1)
    speaker_ids = [str(s) for s in rng.integers(0, 4, 80)]
    labels = rng.uniform(1, 7, (80, 2))
    labels[rng.random((80, 2)) < 0.1] = np.nan
    return rng.normal(4, 1, (80, 2)), labels, speaker_ids


def test_agrees_with_audmetric_over_everyone_and_within_speakers(table):
    predictions, labels, speaker_ids = table
    scores = score(predictions, labels, speaker_ids, ("arousal", "valence"))
    for column, attribute in enumerate(("arousal", "valence")):
        x, y, of = predictions[:, column], labels[:, column], scores[attribute]
        expected = {}
        for speaker in sorted(set(speaker_ids)):
            rows = np.array([s == speaker for s in speaker_ids])
            expected[speaker] = audmetric.concordance_cc(y[rows], x[rows], ignore_nan=True)
        assert of.overall_ccc == pytest.approx(audmetric.concordance_cc(y, x, ignore_nan=True), abs=1e-12)
        assert of.per_speaker == pytest.approx(expected, abs=1e-12)
        assert of.average_ccc == pytest.approx(np.mean(list(expected.values())), abs=1e-12)
        assert of.average_ccc_std == pytest.approx(np.std(list(expected.values()), ddof=0), abs=1e-12)
        assert of.utterances == np.isfinite(y).sum()
        assert (of.speakers, of.undefined_speakers) == (4, 0)


def test_speakers_with_few_labelled_utterances_and_unknown_ones_count_in_overall_alone():
    rng = np.random.default_rng(3)
    speaker_ids = ["many"] * 10 + ["few"] * 10 + [None] * 10
    predictions, labels = rng.normal(size=(30, 1)), rng.normal(size=(30, 1))
    labels[10, 0] = np.nan
    of = score(predictions, labels, speaker_ids, ["valence"])["valence"]
    assert set(of.per_speaker) == {"many"}
    assert of.average_ccc == pytest.approx(audmetric.concordance_cc(labels[:10, 0], predictions[:10, 0]))
    assert of.average_ccc_std == 0
    assert of.utterances == 29
    assert of.overall_ccc == pytest.approx(audmetric.concordance_cc(labels[:, 0], predictions[:, 0], ignore_nan=True))
    fewer = score(predictions, labels, speaker_ids, ["valence"], min_utterances=9)["valence"]
    assert set(fewer.per_speaker) == {"many", "few"}


def test_what_is_undefined_is_nan_and_counted_and_json_says_null(tmp_path):
    predictions, labels = np.full((20, 2), 4.0), np.array([[4.0, np.nan]] * 20)
    predictions[10:, 0] = labels[10:, 0] = np.arange(10)
    scores = score(predictions, labels, ["a"] * 10 + ["b"] * 10, ["arousal", "valence"])
    of = scores["arousal"]
    assert (of.speakers, of.undefined_speakers, of.average_ccc) == (1, 1, 1.0)
    of = scores["valence"]
    assert all(math.isnan(value) for value in (of.overall_ccc, of.average_ccc, of.average_ccc_std))
    write_json(tmp_path / "scores.json", as_json(scores))
    content = json.loads((tmp_path / "scores.json").read_text())
    assert content["arousal"]["per_speaker"] == {"a": None, "b": 1.0}
    assert (content["valence"]["overall_ccc"], content["valence"]["utterances"]) == (None, 0)
    assert str(from_json(content)) == str(scores)


def test_mean_over_draws(table):
    predictions, labels, speaker_ids = table
    draws = [score(p, labels, speaker_ids, ("arousal", "valence")) for p in (predictions, predictions[::-1])]
    mean = mean_scores(draws)["valence"]
    for name in ("overall_ccc", "average_ccc", "average_ccc_std"):
        assert getattr(mean, name) == pytest.approx(np.mean([getattr(draw["valence"], name) for draw in draws]))
    assert mean.per_speaker["2"] == pytest.approx(np.mean([draw["valence"].per_speaker["2"] for draw in draws]))
    assert mean.utterances == draws[0]["valence"].utterances


def test_bad_input_is_named():
    refused(r"\(2, 1\)", score, np.ones((2, 2)), np.ones((2, 2)), ["a", "b"], ["arousal"])
    spoilt = np.array([[1.0], [np.nan]])
    refused(r"utterance 1 .speaker b. is not a finite", score, spoilt, np.ones((2, 1)), ["a", "b"], ["arousal"])


def test_moments_of_all_one_by_one_in_parts_and_by_rows_are_the_same():
    # far from 0, and with gaps
    values = np.random.default_rng(0).normal(1e6, 1, (60, 2))
    values[::7, 1] = np.nan
    one_by_one = Moments.empty(2)
    for row in values:
        one_by_one = one_by_one.add(row)
    parts = [Moments.of(values[:13]), Moments.empty(2), Moments.of(values[13:14]), Moments.of(values[14:])]
    merged = parts[1]
    for part in parts:
        merged = merged.merge(part)
    by_rows = Moments(*(np.stack([getattr(part, name) for part in parts]) for name in ("count", "mean", "m2")))
    of_all = [Moments.of(values), one_by_one, merged, by_rows.total()]
    for moments, rows in [*((moments, values) for moments in of_all), (by_rows[0], values[:13])]:
        assert moments.count.tolist() == (~np.isnan(rows)).sum(axis=0).tolist()
        np.testing.assert_allclose(moments.mean, np.nanmean(rows, axis=0), rtol=1e-15)
        np.testing.assert_allclose(moments.std, np.nanstd(rows, axis=0), rtol=1e-9)


def test_equal_values_have_no_deviation_and_no_value_adds_nothing():
    equal = np.full((10, 1), 0.1)
    moments = Moments.of(equal).merge(Moments.of(equal)).add(equal[0])
    assert (moments.mean.item(), moments.std.item()) == (0.1, 0)
    nothing = Moments.empty(2).add(np.array([np.nan, np.nan]))
    assert np.isnan(nothing.std).all()
    assert Moments.of(np.ones((3, 2))).merge(nothing).count.tolist() == [3, 3]
    assert Moments.of(np.ones((0, 2))).count.tolist() == [0, 0]
