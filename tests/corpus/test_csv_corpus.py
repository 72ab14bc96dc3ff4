from __future__ import annotations

from collections.abc import Callable
from math import isnan
from pathlib import Path

import pytest
from jsonargparse import ArgumentParser

from ser_personal.corpus.base import Corpus
from ser_personal.corpus.csv_corpus import CSVCorpus, open_corpus
from ser_personal.corpus.msp_podcast import MSPPodcast
from ser_personal.errors import UserError

COLUMNS = ["path", "speaker", "split", "arousal"]

Table = Callable[..., str]


def test_all_columns(table):
    columns = ["id", "valence", "arousal", "emotion", "gender", "split", "speaker", "path", "notes"]
    path = table(columns, ["first", 2.5, 3, "joy", "f", "Dev", "007", "b.wav", "x"])
    (utterance,) = CSVCorpus(path).splits.validation
    assert (utterance.utterance_id, utterance.speaker_id, utterance.gender) == ("first", "007", "f")
    assert (utterance.emotion, utterance.seconds) == ("joy", 0.1)
    assert utterance.path == Path(path).parent / "b.wav"
    assert (utterance.labels["arousal"], utterance.labels["valence"]) == (3.0, 2.5)
    assert isnan(utterance.labels["dominance"])


def test_only_required_columns(table):
    path = table(COLUMNS[:3], ["sub/b.x.wav", "Unknown", "test"], ["sub/a.wav", "", "train"])
    first, second = CSVCorpus(path).utterances
    assert (first.utterance_id, second.utterance_id) == ("sub/a", "sub/b.x")
    assert (first.speaker_id, second.speaker_id) == (None, None)
    assert (first.emotion, first.gender, second.split) == (None, None, "test1")


def test_own_scale(table):
    corpus = CSVCorpus(table(COLUMNS, ["a.wav", "s", "train", -1]), scale=(-1, 1))
    assert corpus.scale == (-1, 1)
    assert corpus.utterances[0].labels["arousal"] == -1
    told = r"corpus.csv, a: arousal is -1, outside the scale 1 to 5. .*--data.corpus.scale '\[-1,1\]'"
    with pytest.raises(UserError, match=told):
        _ = CSVCorpus(str(corpus.label_file), scale=(1, 5)).utterances


def test_empty_scales():
    with pytest.raises(UserError, match="scale"):
        CSVCorpus("corpus.csv", scale=(7, 1))


def test_duplicate_ids(table):
    path = table(COLUMNS, ["a.wav", "s", "train", 1], ["a.flac", "s", "train", 1], ["b.wav", "s", "train", 1])
    with pytest.raises(UserError, match="lists 1 utterance ids more than once: a"):
        _ = CSVCorpus(path).utterances


def test_overlap_is_refused_unless_allowed(table):
    path = table(COLUMNS, ["a.wav", "s", "train", 1], ["b.wav", "s", "test", 1])
    with pytest.raises(UserError, match="split test1: 1 of its speakers are in train as well: s"):
        _ = CSVCorpus(path).splits
    assert len(CSVCorpus(path, allow_overlap=["Test"]).splits.test["test1"]) == 1


def test_nothing_is_read_before_it_is_asked_for():
    corpus = CSVCorpus("/nowhere/corpus.csv")
    with pytest.raises(UserError, match=r"/nowhere/corpus\.csv: no such file"):
        _ = corpus.utterances


def test_arguments_come_from_a_config():
    parser = ArgumentParser()
    parser.add_argument("--corpus", type=Corpus | str)
    config = {"class_path": "CSVCorpus", "init_args": {"path": "x.csv", "scale": [1, 5], "allow_overlap": ["dev"]}}
    corpus = parser.instantiate(parser.parse_object({"corpus": config})).corpus
    assert isinstance(corpus, CSVCorpus)
    assert (corpus.scale, corpus.allow_overlap, str(corpus.label_file)) == ((1, 5), ("validation",), "x.csv")


def test_columns_are_known_in_any_case(table):
    path = table(["ID", "PATH", "Speaker", "Split", "AROUSAL"], ["a", "a.wav", "s", "train", 3])
    (Path(path).parent / "a.wav").touch()
    (utterance,) = CSVCorpus(path).utterances
    assert (utterance.utterance_id, utterance.speaker_id, utterance.labels["arousal"]) == ("a", "s", 3.0)
    path = table([*COLUMNS, "Arousal"], ["a.wav", "s", "train", 1, 2])
    assert CSVCorpus(path).utterances[0].labels["arousal"] == 1


def test_a_column_that_stands_twice(table):
    for columns in ([*COLUMNS, "arousal"], [*COLUMNS[:3], "AROUSAL", "Arousal"]):
        with pytest.raises(UserError, match=r"corpus\.csv: has column arousal more than once"):
            _ = CSVCorpus(table(columns, ["a.wav", "s", "train", 1, 2][: len(columns)])).utterances


def test_paths_from_windows(table, tmp_path):
    path = table(COLUMNS, ["sub/a.wav", "s", "train", 1])
    Path(path).write_text(Path(path).read_text().replace("sub/a.wav", "sub\\a.wav"))
    (utterance,) = CSVCorpus(path).utterances
    assert utterance.path == tmp_path / "sub" / "a.wav"
    assert utterance.seconds == 0.1


def test_a_table_or_its_folder(table):
    path = table(["path", "speaker", "split"], ["a.wav", "s", "train"])
    for given in (path, str(Path(path).parent)):
        corpus = open_corpus(given)
        assert isinstance(corpus, CSVCorpus)
        assert corpus.label_file == Path(path)
        assert open_corpus(corpus) is corpus


def test_a_release(release):
    root = release([("a.wav", "N", 4, 4, 4, 1, "Male", "Train")], audio="Audio")
    assert isinstance(open_corpus(str(root)), MSPPodcast)
    assert len(open_corpus(str(root)).utterances) == 1


def test_anything_else_says_what_is_accepted(tmp_path):
    accepted = r"Give a folder with Labels and Audios .*, one with corpus.csv, or a table: .csv, .tsv or .parquet\."
    with pytest.raises(UserError, match=f"holds no corpus. {accepted}"):
        open_corpus(str(tmp_path))
    with pytest.raises(UserError, match=f"no such corpus. {accepted}"):
        open_corpus(str(tmp_path / "nowhere"))
