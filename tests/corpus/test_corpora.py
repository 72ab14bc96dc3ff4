import logging
import os
from math import isnan
from pathlib import Path

import numpy as np
import pytest
from garbage import refused

from ser_personal.corpus import base
from ser_personal.corpus.csv_corpus import CSVCorpus, open_corpus
from ser_personal.corpus.msp_podcast import MSPPodcast
from ser_personal.corpus.table import read_vectors

ROWS = [
    ("MSP-PODCAST_0002_0001.wav", "N", 4.2, 3.5, 5.0, "Unknown", "Unknown", "Train"),
    ("MSP-PODCAST_0001_0008.wav", "A", 6.0, 2.0, 5.5, 127, "Male", "Train"),
]
VERSIONS = {
    "1.6": ("labels_concensus.csv", "Audio", ["Validation", "Test"]),
    "1.8": ("labels_concensus.csv", "Audios", ["Validation", "Test1", "Test2"]),
    "1.11": ("labels_consensus.csv", "Audios", ["Development", "Test1", "Test2", "Test3"]),
    "2.0": ("labels_consensus.json", "Audios", ["Development", "Test1", "Test2", "Test3"]),
}
COLUMNS = ["path", "speaker", "split", "arousal"]


def version_rows(splits: list[str]) -> list[tuple[object, ...]]:
    labels = [["", "", ""] if split == "Test3" else [7, 1, 4] for split in splits]
    others = [(f"MSP-PODCAST_1000_000{n}.wav", "X", *labels[n], n, "Female", split) for n, split in enumerate(splits)]
    return [*ROWS, *others]


@pytest.mark.parametrize("version", VERSIONS)
def test_every_release_reads_alike(version, release):
    label_file, audio, splits = VERSIONS[version]
    corpus = open_corpus(str(release(version_rows(splits), label_file, audio)))
    assert isinstance(corpus, MSPPodcast)
    assert list(corpus.splits.sets) == ["train", "validation", "test1", "test2", "test3"][: len(splits) + 1]
    assert corpus.scale == (1, 7)
    known, unknown = corpus.splits.train
    assert known.utterance_id == "MSP-PODCAST_0001_0008"
    assert known.path.is_file()
    assert (known.speaker_id, known.gender, known.emotion, known.seconds) == ("127", "Male", "anger", 0.1)
    assert known.labels == {"arousal": 6.0, "valence": 2.0, "dominance": 5.5}
    assert (unknown.speaker_id, unknown.gender, unknown.emotion) == (None, None, "neutral")
    (validation,) = corpus.splits.validation
    assert validation.labels == {"arousal": 7.0, "valence": 1.0, "dominance": 4.0}
    assert validation.emotion is None
    for hidden in corpus.splits.test.get("test3", ()):
        assert all(isnan(label) for label in hidden.labels.values())


def test_a_split_file_overrides_the_releases_own(release, tmp_path, caplog):
    root = release(version_rows(["Development", "Test1", "Test2"]))
    partitions = tmp_path / "Partitions.txt"
    partitions.write_text("Test; MSP-PODCAST_0001_0008.wav\n\nTrain;MSP-PODCAST_1000_0002.wav\nTrain; gone.wav\n")
    with caplog.at_level(logging.WARNING):
        utterances = MSPPodcast(str(root), partitions=str(partitions)).utterances
    splits = {utterance.utterance_id: utterance.split for utterance in utterances}
    assert splits == {"MSP-PODCAST_0001_0008": "test1", "MSP-PODCAST_1000_0002": "train"}
    assert "1 utterances have no labels in labels_consensus.csv, left out: gone" in caplog.text
    for text, message in (
        ("Train NAME.wav\n", r"line 1: 'Train NAME.wav' names no split or no file"),
        ("Train; a.wav\nTest; a.wav\n", r"line 2: a.wav is in Train and in Test"),
        ("Train; a.wav\n", r"names no utterance of .*labels_consensus.csv"),
    ):
        partitions.write_text(text)
        refused(message, lambda: MSPPodcast(str(root), partitions=str(partitions)).utterances)


def test_columns_are_known_by_name_in_any_order_and_case(table):
    columns = ["ID", "valence", "AROUSAL", "emotion", "gender", "Split", "speaker", "path", "notes", "arousal"]
    path = table(columns, ["first", 2.5, 9, "joy", "f", "Dev", "007", "b.wav", "x", 3])
    (utterance,) = CSVCorpus(path).splits.validation
    assert (utterance.utterance_id, utterance.speaker_id, utterance.gender) == ("first", "007", "f")
    assert (utterance.emotion, utterance.seconds) == ("joy", 0.1)
    assert utterance.path == Path(path).parent / "b.wav"
    # of two spellings, the exact one counts
    assert (utterance.labels["arousal"], utterance.labels["valence"]) == (3.0, 2.5)
    assert isnan(utterance.labels["dominance"])
    # the required ones alone
    path = table(COLUMNS[:3], ["sub/b.x.wav", "Unknown", "test"], ["sub/a.wav", "", "train"])
    first, second = CSVCorpus(path).utterances
    assert (first.utterance_id, second.utterance_id) == ("sub/a", "sub/b.x")
    assert (first.speaker_id, second.speaker_id, first.emotion, second.split) == (None, None, None, "test1")


def test_names_are_one_however_unicode_spells_them_and_paths_stay_as_they_are(table, tmp_path):
    path = table(COLUMNS, ["e\u0301.wav", "Jose\u0301", "train", 1], ["b.wav", " Jos\u00e9\u00a0", "test", 1])
    _, accented = CSVCorpus(path).utterances
    assert (accented.utterance_id, accented.path) == ("\u00e9", tmp_path / "e\u0301.wav")
    refused("split test1: 1 of its speakers are in train as well: Jos\u00e9", lambda: CSVCorpus(path).splits)
    np.savez(tmp_path / "vectors.npz", José=np.ones(2))
    (tmp_path / "vectors.csv").write_text("speaker,d0,d1\nJose\u0301,1,1\n")
    for name in ("vectors.npz", "vectors.csv"):
        assert list(read_vectors(tmp_path / name, of="speaker")) == ["Jos\u00e9"]


def test_a_corpus_is_opened_by_its_table_or_folder_and_anything_else_says_what_is_accepted(table, tmp_path):
    refused("holds no corpus. Give a folder with Labels and Audios .*, or a table", open_corpus, str(tmp_path))
    path = table(COLUMNS, ["a.wav", "s", "train", -1])
    for given in (path, str(Path(path).parent)):
        corpus = open_corpus(given)
        assert (type(corpus), corpus.label_file) == (CSVCorpus, Path(path))
        assert open_corpus(corpus) is corpus
    assert CSVCorpus(path, scale=(-1, 1)).utterances[0].labels["arousal"] == -1
    refused(r"corpus\.csv, a: arousal is -1, outside the scale 1 to 7", lambda: corpus.utterances)


def test_a_header_is_read_again_where_the_file_has_changed_alone(table, tmp_path, wav, monkeypatch):
    path = table(COLUMNS[:3], *([f"{name}.wav", "s", "train"] for name in "abc"))
    read, seen = base.read_header, []
    monkeypatch.setattr(base, "read_header", lambda path: (seen.append(path.stem), read(path))[1])
    monkeypatch.setattr(base, "FEW", 2)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def headers():
        seen.clear()
        assert [round(each.seconds, 1) for each in CSVCorpus(path).utterances] == seconds
        return "".join(sorted(seen))

    seconds = [0.1, 0.1, 0.1]
    assert [headers(), headers()] == ["abc", ""]
    wav(tmp_path / "a.wav", num_samples=3200)
    # as large as before, and another sound
    os.utime(tmp_path / "b.wav", ns=(0, 0))
    seconds[0] = 0.2
    assert headers() == "ab"
    (kept,) = (tmp_path / "cache").rglob("*.json")
    kept.write_bytes(b"{")
    assert headers() == "abc"
    monkeypatch.setenv("XDG_CACHE_HOME", path)
    assert [headers(), headers()] == ["abc", "abc"]
    # no home, as a container's user may have none
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "~")
    monkeypatch.chdir(tmp_path)
    assert headers() == "abc"
