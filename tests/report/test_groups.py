from __future__ import annotations

from collections import Counter

import numpy as np
import pandas as pd
import pytest
from invented_run import edit_json, invent

from ser_personal.errors import UserError
from ser_personal.evaluation.run_files import read_run
from ser_personal.report.bootstrap import Bootstrap
from ser_personal.report.groups import (
    METRICS,
    SpeakerSums,
    by_amount_of_speech,
    by_column,
    by_gender,
    by_label_region,
    column_of,
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


def compare(predictions, labels, speaker_ids, membership, bootstrap=None):
    groups = sorted({group for group in membership if group})
    bootstrap = bootstrap or Bootstrap(200)
    return compare_groups(
        predictions, labels, speaker_ids, membership, groups, min_utterances=MINIMUM, bootstrap=bootstrap
    )


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


@pytest.fixture
def few(tmp_path):
    """The only test set of a run of four speakers."""
    invent(tmp_path, speakers=4, utterances=10)

    def spread(record):
        for place, speaker in enumerate(record["splits"]["test1"].values()):
            speaker["utterances"] = 10 * (place + 1)

    edit_json(tmp_path / "speakers.json", spread)
    (test,) = read_run(tmp_path).sets
    return test


def test_gender_is_the_corpus_s_word(few):
    partition = by_gender(few)
    assert partition.groups == ("Female", "Male")
    assert Counter(partition.membership) == {"Female": 20, "Male": 20}


def test_label_regions_are_thirds_of_the_scale(few):
    partition = by_label_region(few, "arousal", (1, 7))
    assert partition.groups == ("low labels (below 3)", "middle labels (3 to 5)", "high labels (above 5)")
    for label, group in zip(few.values("arousal", "label"), partition.membership, strict=True):
        assert group == partition.groups[0 if label < 3 else 1 if label <= 5 else 2]


def test_amount_of_speech_goes_by_speaker(few):
    partition = by_amount_of_speech(few)
    assert partition.groups == ("up to 25 utterances", "over 25 utterances")
    assert partition.membership == ("up to 25 utterances",) * 20 + ("over 25 utterances",) * 20


def test_a_column_of_words_or_few_numbers_is_taken_as_it_is():
    words = by_column("dialect", ["north", None, "south", "north"], ["a", "b", "c", "a"])
    assert (words.groups, words.membership) == (("north", "south"), ("north", None, "south", "north"))
    assert by_column("session", ["1", "2", "2"], ["a", "b", "c"]).groups == ("1", "2")


def test_a_column_of_many_numbers_is_cut():
    ages = by_column("age", ["20", "25", "30", None, "35", "40", "45", "50", "55"], list("abcdefghi"))
    assert ages.groups == ("up to 37.5", "over 37.5")
    assert Counter(ages.membership) == {"up to 37.5": 4, "over 37.5": 4, None: 1}
    speakers = [f"s{n}" for n in range(30)]
    thirds = by_column("age", [str(n) for n in range(30)], speakers)
    assert Counter(thirds.membership) == dict.fromkeys(thirds.groups, 10)
    assert len(thirds.groups) == 3


UTTERANCES = pd.DataFrame(
    {
        "utterance": ["a/1", "a/2", "b/1", "u1"],
        "speaker": ["a", "a", None, "9"],
        "emotion": ["anger", None, "Unknown", None],
    }
)


@pytest.mark.parametrize(
    ("table", "values"),
    [
        ("id,path,accent\na/1,x.wav,north\nb/1,y.wav,south\nc,z.wav,east\n", ["north", None, "south", None]),
        ("path,accent\na/1.wav,north\nb/1.flac,south\n", ["north", None, "south", None]),
        ("utterance,accent\na/1,north\na/2,\nb/1,south\n", ["north", None, "south", None]),
        ("FileName,SpkrID,accent\nu1.wav,9,north\n", [None, None, None, "north"]),
        ("SpkrID,accent\na,north\nc,south\n", ["north", "north", None, None]),
    ],
)
def test_a_table_of_utterances_or_of_speakers(tmp_path, table, values):
    path = tmp_path / "corpus.csv"
    path.write_text(table)
    assert column_of(UTTERANCES, "accent", str(path)) == values


def test_a_column_of_the_predictions():
    assert column_of(UTTERANCES, "emotion", None) == ["anger", None, None, None]


def test_a_table_without_the_column_or_of_other_ids_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"--by: no column age in predictions.csv. Give .*--table.*utterance, speaker"):
        column_of(UTTERANCES, "age", None)
    path = tmp_path / "table.csv"
    path.write_text("speaker,age\nz,3\n")
    with pytest.raises(UserError, match="has none of the run's utterances or speakers"):
        column_of(UTTERANCES, "age", str(path))
    with pytest.raises(UserError, match=r"table.csv: no column accent \(found: speaker, age\)"):
        column_of(UTTERANCES, "accent", str(path))
    path.write_text("name,age\nz,3\n")
    with pytest.raises(UserError, match="no column of utterances or speakers"):
        column_of(UTTERANCES, "age", str(path))
    with pytest.raises(UserError, match="no such file"):
        column_of(UTTERANCES, "age", str(tmp_path / "none.csv"))
