from __future__ import annotations

import numpy as np
import pytest

from ser_personal.report.audit import METRICS, SpeakerSums, compare_groups
from ser_personal.report.bootstrap import Bootstrap
from ser_personal.scores import score

MINIMUM = 4


@pytest.fixture
def toy():
    """Twelve speakers of eight utterances: predictions, labels (some missing), speakers."""
    rng = np.random.default_rng(3)
    labels = rng.uniform(1, 7, 96)
    predictions = labels + rng.normal(0.4, 1, 96)
    labels[::11] = np.nan
    return predictions, labels, np.repeat([f"s{n:02}" for n in range(12)], 8).tolist()


def by_hand(predictions, labels, speaker_ids):
    """The four figures, by `score` and plain means."""
    scores = score(predictions[:, None], labels[:, None], speaker_ids, ["x"], min_utterances=MINIMUM)["x"]
    error = (predictions - labels)[~np.isnan(labels)]
    values = (scores.overall_ccc, scores.average_ccc, error.mean(), np.abs(error).mean())
    return dict(zip(METRICS, values, strict=True))


def compare(predictions, labels, speaker_ids, membership, bootstrap=None):
    groups = sorted({group for group in membership if group})
    bootstrap = bootstrap or Bootstrap(200)
    return compare_groups(
        predictions, labels, speaker_ids, membership, groups, min_utterances=MINIMUM, bootstrap=bootstrap
    )


def test_bias_and_error_by_hand():
    predictions, labels = np.array([2.0, 5.0, 4.0, 4.0]), np.array([1.0, 7.0, np.nan, 4.5])
    found = compare(predictions, labels, ["a", "a", "b", "b"], ["g"] * 4)["g"]
    assert found.scores.bias.value == pytest.approx((1 - 2 - 0.5) / 3)
    assert found.scores.mean_absolute_error.value == pytest.approx((1 + 2 + 0.5) / 3)
    assert (found.scores.speakers, found.scores.counted_speakers, found.scores.utterances) == (2, 0, 3)
    assert np.isnan(found.scores.average_ccc.value)
    assert found.gap is None


def test_groups_are_scored_as_if_they_stood_alone(toy):
    predictions, labels, speaker_ids = toy
    membership = ["even" if int(speaker[1:]) % 2 == 0 else "odd" for speaker in speaker_ids]
    found = compare(predictions, labels, speaker_ids, membership)
    inside = np.array(membership) == "even"
    expected = {
        name: by_hand(predictions[rows], labels[rows], [s for s, r in zip(speaker_ids, rows, strict=True) if r])
        for name, rows in (("even", inside), ("odd", ~inside))
    }
    for metric in METRICS:
        value, gap = (getattr(of, metric).value for of in (found["even"].scores, found["even"].gap))
        assert value == pytest.approx(expected["even"][metric])
        assert gap == pytest.approx(expected["even"][metric] - expected["odd"][metric])
        assert getattr(found["odd"].gap, metric).value == pytest.approx(-gap)


def test_a_draw_is_scored_as_if_its_speakers_were_people_of_their_own(toy):
    predictions, labels, _ = toy
    rows_of = [np.arange(8 * n, 8 * n + 8) for n in range(12)]
    sums = SpeakerSums.of(predictions, labels, rows_of, MINIMUM)
    drawn = np.random.default_rng(0).integers(12, size=12)
    figures = sums.figures(np.bincount(drawn, minlength=12)[None].astype(float))
    rows = np.concatenate([rows_of[speaker] for speaker in drawn])
    expected = by_hand(predictions[rows], labels[rows], np.repeat([f"copy{n}" for n in range(12)], 8).tolist())
    for metric in METRICS:
        assert figures[metric][0] == pytest.approx(expected[metric])


def test_intervals_take_ten_speakers_on_both_sides(toy):
    predictions, labels, speaker_ids = toy
    membership = ["few" if speaker in {"s00", "s01"} else "many" for speaker in speaker_ids]
    found = compare(predictions, labels, speaker_ids, membership)
    assert found["few"].scores.bias.refused == "2 speakers, an interval takes 10"
    assert found["many"].scores.bias.refused is None
    assert found["many"].gap.bias.refused == "2 speakers, an interval takes 10"
    scores = found["many"].scores
    assert scores.overall_ccc.low < scores.overall_ccc.value < scores.overall_ccc.high


def test_a_gap_within_speakers_is_measured_within_speakers():
    # speakers differ widely, the halves of each by exactly 1
    level = np.repeat(np.linspace(-3, 3, 20), 10)
    half = np.tile(np.repeat([0.0, 1.0], 5), 20)
    membership = ["upper" if value else "lower" for value in half]
    speaker_ids = np.repeat([f"s{n}" for n in range(20)], 10).tolist()
    found = compare(level + half, np.zeros(200), speaker_ids, membership)
    gap, bias = found["upper"].gap.bias, found["upper"].scores.bias
    assert (gap.value, gap.low, gap.high) == pytest.approx((1, 1, 1))
    assert bias.high - bias.low > 1


def test_unknown_speakers_and_those_in_no_group_are_left_out(toy):
    predictions, labels, speaker_ids = toy
    predictions = predictions.copy()
    predictions[:16] += 100
    unknown = [None] * 8 + speaker_ids[8:]
    membership = ["g"] * 8 + [None] * 8 + ["g"] * 80
    found = compare(predictions, labels, unknown, membership)["g"].scores
    expected = by_hand(predictions[16:], labels[16:], speaker_ids[16:])
    assert found.bias.value == pytest.approx(expected["bias"])
    assert found.speakers == 10
