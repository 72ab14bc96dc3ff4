from __future__ import annotations

import os
from collections.abc import Callable
from math import isnan
from pathlib import Path

import numpy as np
import pytest
from jsonargparse import ArgumentParser

from ser_personal.corpus import base
from ser_personal.corpus.base import Corpus
from ser_personal.corpus.csv_corpus import CSVCorpus, open_corpus
from ser_personal.corpus.msp_podcast import MSPPodcast
from ser_personal.corpus.table import read_vectors
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


def test_names_are_one_however_unicode_spells_them_and_paths_stay_as_they_are(table, tmp_path):
    path = table(COLUMNS, ["e\u0301.wav", "Jose\u0301", "train", 1], ["b.wav", " Jos\u00e9\u00a0", "test", 1])
    _, accented = CSVCorpus(path).utterances
    assert (accented.utterance_id, accented.path) == ("\u00e9", tmp_path / "e\u0301.wav")
    with pytest.raises(UserError, match="split test1: 1 of its speakers are in train as well: Jos\u00e9"):
        _ = CSVCorpus(path).splits
    np.savez(tmp_path / "vectors.npz", José=np.ones(2))
    (tmp_path / "vectors.csv").write_text("speaker,d0,d1\nJose\u0301,1,1\n")
    for name in ("vectors.npz", "vectors.csv"):
        assert list(read_vectors(tmp_path / name, of="speaker")) == ["Jos\u00e9"]


def test_own_scale(table):
    corpus = CSVCorpus(table(COLUMNS, ["a.wav", "s", "train", -1]), scale=(-1, 1))
    assert corpus.scale == (-1, 1)
    assert corpus.utterances[0].labels["arousal"] == -1
    told = r"corpus.csv, a: arousal is -1, outside the scale 1 to 5. .*--data.corpus.scale '\[-1,1\]'"
    with pytest.raises(UserError, match=told):
        _ = CSVCorpus(str(corpus.label_file), scale=(1, 5)).utterances


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


@pytest.fixture
def read(tmp_path, monkeypatch, wav):
    """Reads a corpus; -> seconds of each file, and which headers were read for it."""
    for number, name in enumerate("abc"):
        wav(tmp_path / "corpus" / f"{name}.wav", num_samples=1600 * (number + 1))
    rows = ["path,speaker,split", "a.wav,s,train", "b.wav,s,train", "c.wav,t,dev", "gone.wav,t,dev"]
    (tmp_path / "corpus" / "corpus.csv").write_text("\n".join(rows))
    seen = []
    count = base.num_samples_of
    monkeypatch.setattr(base, "num_samples_of", lambda path: (seen.append(path.stem), count(path))[1])
    monkeypatch.setattr(base, "FEW", 2)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def once():
        seen.clear()
        utterances = CSVCorpus(str(tmp_path / "corpus")).utterances
        return {each.utterance_id: each.seconds for each in utterances if each.seconds > 0}, sorted(seen)

    return once


SECONDS = {"a": 0.1, "b": 0.2, "c": pytest.approx(0.3)}


def test_a_header_is_read_again_where_the_file_has_changed_alone(read, tmp_path, wav):
    assert read() == (SECONDS, ["a", "b", "c"])
    assert read() == (SECONDS, [])
    wav(tmp_path / "corpus" / "a.wav", num_samples=3200)
    assert read() == (SECONDS | {"a": 0.2}, ["a"])
    # as large as before, and another sound
    path = tmp_path / "corpus" / "b.wav"
    os.utime(path, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns + 1))
    assert read() == (SECONDS | {"a": 0.2}, ["b"])
    wav(tmp_path / "corpus" / "gone.wav")
    assert read() == (SECONDS | {"a": 0.2, "gone": 0.1}, ["gone"])
    # what a command on other utterances has read is kept
    table = tmp_path / "corpus" / "corpus.csv"
    everyone = table.read_text()
    table.write_text(everyone.replace("b.wav,s,train\n", ""))
    read()
    table.write_text(everyone)
    assert read()[1] == []


@pytest.mark.parametrize("content", [b"{", b"[1]", b'{"a": [1, 2]}', b"\xff", b"[" * 100_000])
def test_lengths_that_cannot_be_read_are_found_anew(read, tmp_path, content):
    read()
    (kept,) = (tmp_path / "cache").rglob("*.json")
    kept.write_bytes(content)
    assert read() == (SECONDS, ["a", "b", "c"])
    assert read() == (SECONDS, [])


def test_no_length_is_kept_of_few_files_or_where_nothing_can_be_written(read, tmp_path, monkeypatch):
    (tmp_path / "cache").write_text("a file in the folder's place")
    assert read() == read() == (SECONDS, ["a", "b", "c"])
    (tmp_path / "cache").unlink()
    monkeypatch.setattr(base, "FEW", 1_000)
    assert read() == read() == (SECONDS, ["a", "b", "c"])
    assert not (tmp_path / "cache").exists()
