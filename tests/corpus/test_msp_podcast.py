from __future__ import annotations

import logging
from collections.abc import Callable
from math import isnan
from pathlib import Path

import pytest

from ser_personal.corpus.msp_podcast import MSPPodcast
from ser_personal.errors import UserError

Release = Callable[..., Path]

ROWS = [
    ("MSP-PODCAST_0002_0001.wav", "N", 4.2, 3.5, 5.0, "Unknown", "Unknown", "Train"),
    ("MSP-PODCAST_0001_0008.wav", "A", 6.0, 2.0, 5.5, 127, "Male", "Train"),
]

VERSIONS = {
    "1.6": ("labels_concensus.csv", "Audio", ["Validation", "Test"]),
    "1.8": ("labels_concensus.csv", "Audios", ["Validation", "Test1", "Test2"]),
    "1.10": ("labels_consensus.csv", "Audios", ["Development", "Test1", "Test2"]),
    "1.11": ("labels_consensus.csv", "Audios", ["Development", "Test1", "Test2", "Test3"]),
    "2.0": ("labels_consensus.json", "Audios", ["Development", "Test1", "Test2", "Test3"]),
    "1.8 JSON": ("labels_concensus.json", "Audio", ["Validation", "Test1", "Test2"]),
}


def version_rows(splits: list[str]) -> list[tuple[object, ...]]:
    others = [
        (f"MSP-PODCAST_1000_000{n}.wav", "X", *([""] * 3 if split == "Test3" else [7, 1, 4]), n, "Female", split)
        for n, split in enumerate(splits)
    ]
    return [*ROWS, *others]


@pytest.mark.parametrize("version", VERSIONS)
def test_every_release_reads_alike(version, release):
    label_file, audio, splits = VERSIONS[version]
    corpus = MSPPodcast(str(release(version_rows(splits), label_file, audio)))
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


def test_columns_are_found_by_name(release):
    root = release(ROWS)
    table = root / "Labels" / "labels_consensus.csv"
    lines = [line.split(",") for line in table.read_text().splitlines()]
    expected = MSPPodcast(str(root)).utterances
    table.write_text("\ufeff" + "\n".join(", ".join(reversed(cells)) for cells in lines), encoding="utf-8")
    assert MSPPodcast(str(root)).utterances == expected


def test_split_file_overrides(release, tmp_path, caplog):
    root = release(version_rows(["Development", "Test1", "Test2"]))
    partitions = tmp_path / "Partitions.txt"
    partitions.write_text("Test; MSP-PODCAST_0001_0008.wav\n\nTrain;MSP-PODCAST_1000_0002.wav\nTrain; gone.wav\n")
    with caplog.at_level(logging.WARNING):
        utterances = MSPPodcast(str(root), partitions=str(partitions)).utterances
    assert {u.utterance_id: u.split for u in utterances} == {
        "MSP-PODCAST_0001_0008": "test1",
        "MSP-PODCAST_1000_0002": "train",
    }
    assert "1 utterances have no labels" in caplog.text
    assert "gone" in caplog.text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Train NAME.wav\n", r"line 1: 'Train NAME.wav' names no split or no file"),
        ("Train; a.wav\nTest; a.wav\n", r"line 2: a.wav is in Train and in Test"),
        ("Train; a.wav\n", r"names no utterance of .*labels_consensus.csv"),
    ],
)
def test_bad_split_file(text, message, release, tmp_path):
    partitions = tmp_path / "Partitions.txt"
    partitions.write_text(text)
    with pytest.raises(UserError, match=message):
        _ = MSPPodcast(str(release(ROWS)), partitions=str(partitions)).utterances


def test_cut_of_the_test_set(release):
    rows = [(f"t{n}.wav", "N", 4, 4, 4, n % 2, "Male", "Test") for n in range(8)]
    corpus = MSPPodcast(str(release([*ROWS, *rows])), cut_test="Test", adaptation_seconds=0.15)
    assert [u.utterance_id for u in corpus.splits.test["test1_adaptation"]] == ["t0", "t1"]
    assert [u.utterance_id for u in corpus.splits.test["test1_evaluation"]] == ["t2", "t3", "t4", "t5", "t6", "t7"]


def test_missing_label_file(tmp_path):
    corpus = MSPPodcast(str(tmp_path))
    with pytest.raises(
        UserError, match=r"Labels: no label file \(looked for labels_consensus.csv, labels_concensus.csv"
    ):
        _ = corpus.utterances
