from __future__ import annotations

from collections import Counter

from invented_run import edit_json, invent

from ser_personal.calibration.run_files import read_run
from ser_personal.report.audit import by_amount_of_speech, by_column, by_gender, by_label_region


def the_set(folder, **options):
    (test,) = read_run(invent(folder, **options)).sets
    return test


def test_gender_is_the_corpus_s_word(tmp_path):
    partition = by_gender(the_set(tmp_path, speakers=4, utterances=10))
    assert partition.groups == ("Female", "Male")
    assert Counter(partition.membership) == {"Female": 20, "Male": 20}


def test_label_regions_are_thirds_of_the_scale(tmp_path):
    test = the_set(tmp_path)
    partition = by_label_region(test, "arousal", (1, 7))
    assert partition.groups == ("low labels (below 3)", "middle labels (3 to 5)", "high labels (above 5)")
    for label, group in zip(test.values("arousal", "label"), partition.membership, strict=True):
        assert group == partition.groups[0 if label < 3 else 1 if label <= 5 else 2]


def test_amount_of_speech_goes_by_speaker(tmp_path):
    # speakers with 10, 20, ... seconds
    partition = by_amount_of_speech(the_set(tmp_path, speakers=4, utterances=10))
    assert partition.groups == ("up to 25 s", "over 25 s")
    assert partition.membership == ("up to 25 s",) * 20 + ("over 25 s",) * 20


def test_amount_of_speech_in_thirds_where_speakers_are_many(tmp_path):
    partition = by_amount_of_speech(the_set(tmp_path, speakers=30, utterances=10))
    assert Counter(partition.membership) == dict.fromkeys(partition.groups, 100)
    assert len(partition.groups) == 3


def test_amount_of_speech_in_utterances_where_seconds_are_unknown(tmp_path):
    invent(tmp_path, speakers=4, utterances=10)
    edit_json(tmp_path / "speakers.json", lambda r: r["splits"]["test1"]["s00"].update(seconds=None, utterances=3))
    (test,) = read_run(tmp_path).sets
    assert by_amount_of_speech(test).groups == ("up to 10 utterances",)


def test_a_column_of_words_or_few_numbers_is_taken_as_it_is():
    words = by_column("dialect", ["north", None, "south", "north"], ["a", "b", "c", "a"])
    assert (words.groups, words.membership) == (("north", "south"), ("north", None, "south", "north"))
    assert by_column("session", ["1", "2", "2"], ["a", "b", "c"]).groups == ("1", "2")


def test_a_column_of_many_numbers_is_cut():
    ages = by_column("age", ["20", "25", "30", None, "35", "40", "45", "50", "55"], list("abcdefghi"))
    assert ages.groups == ("up to 37.5", "over 37.5")
    assert Counter(ages.membership) == {"up to 37.5": 4, "over 37.5": 4, None: 1}
