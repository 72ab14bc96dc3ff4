from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from invented_run import edit_json, invent

from ser_personal.evaluation.run_files import read_run
from ser_personal.report.bootstrap import Bootstrap
from ser_personal.report.groups import (
    METRICS,
    SpeakerSums,
    by_amount_of_speech,
    by_gender,
    by_label_region,
    compare_groups,
)
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


def compare(predictions, labels, speaker_ids, membership):
    groups = sorted({group for group in membership if group})
    inputs = predictions, labels, speaker_ids, membership, groups
    return compare_groups(*inputs, min_utterances=MINIMUM, bootstrap=Bootstrap(200))


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
    assert found["few"].scores.bias.refused == "2 speakers, an interval needs 10"
    assert found["many"].scores.bias.refused is None
    assert found["many"].gap.bias.refused == "2 speakers, an interval needs 10"
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


def test_speakers_are_divided_by_gender_thirds_of_the_scale_and_amount_of_speech(tmp_path):
    invent(tmp_path, speakers=4, utterances=10)

    def spread(record):
        for place, speaker in enumerate(record["splits"]["test1"].values()):
            speaker["utterances"] = 10 * (place + 1)

    edit_json(tmp_path / "speakers.json", spread)
    (few,) = read_run(tmp_path).sets
    assert by_gender(few).groups == ("Female", "Male")
    assert Counter(by_gender(few).membership) == {"Female": 20, "Male": 20}
    amount = by_amount_of_speech(few)
    assert amount.groups == ("up to 25 utterances", "over 25 utterances")
    assert amount.membership == ("up to 25 utterances",) * 20 + ("over 25 utterances",) * 20
    region = by_label_region(few, "arousal", (1, 7))
    assert region.groups == ("low labels (below 3)", "middle labels (3 to 5)", "high labels (above 5)")
    for label, group in zip(few.values("arousal", "label"), region.membership, strict=True):
        assert group == region.groups[0 if label < 3 else 1 if label <= 5 else 2]


def test_thirty_speakers_are_cut_in_thirds():
    speakers = {f"s{n}": SimpleNamespace(utterances=n) for n in range(30)}
    thirds = by_amount_of_speech(SimpleNamespace(speakers=speakers, speaker_ids=[*speakers, None]))
    assert Counter(thirds.membership) == {**dict.fromkeys(thirds.groups, 10), None: 1}
    assert thirds.groups[1] == "9.67 utterances to 19.3 utterances"
