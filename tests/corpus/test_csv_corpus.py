from __future__ import annotations

from collections.abc import Callable
from math import isnan
from pathlib import Path

import pytest
from jsonargparse import ArgumentParser

from ser_personal.corpus.base import Corpus
from ser_personal.corpus.csv_corpus import CSVCorpus
from ser_personal.errors import UserError

COLUMNS = ["path", "speaker", "split", "arousal"]

Table = Callable[..., str]


def test_all_columns(table: Table) -> None:
    columns = ["id", "valence", "arousal", "emotion", "gender", "split", "speaker", "path", "notes"]
    path = table(columns, ["first", 2.5, 3, "joy", "f", "Dev", "007", "b.wav", "x"])
    (utterance,) = CSVCorpus(path).splits.validation
    assert (utterance.utterance_id, utterance.speaker_id, utterance.gender) == ("first", "007", "f")
    assert (utterance.emotion, utterance.seconds) == ("joy", 0.1)
    assert utterance.path == Path(path).parent / "b.wav"
    assert (utterance.labels["arousal"], utterance.labels["valence"]) == (3.0, 2.5)
    assert isnan(utterance.labels["dominance"])


def test_only_required_columns(table: Table) -> None:
    path = table(COLUMNS[:3], ["sub/b.x.wav", "Unknown", "test"], ["sub/a.wav", "", "train"])
    first, second = CSVCorpus(path).utterances
    assert (first.utterance_id, second.utterance_id) == ("sub/a", "sub/b.x")
    assert (first.speaker_id, second.speaker_id) == (None, None)
    assert (first.emotion, first.gender, second.split) == (None, None, "test1")


def test_own_scale(table: Table) -> None:
    corpus = CSVCorpus(table(COLUMNS, ["a.wav", "s", "train", -1]), scale=(-1, 1))
    assert corpus.scale == (-1, 1)
    assert corpus.utterances[0].labels["arousal"] == -1
    with pytest.raises(UserError, match=r"corpus.csv, a: arousal is -1, outside the scale 1 to 5"):
        _ = CSVCorpus(str(corpus.label_file), scale=(1, 5)).utterances


def test_duplicate_ids(table: Table) -> None:
    path = table(COLUMNS, ["a.wav", "s", "train", 1], ["a.flac", "s", "train", 1], ["b.wav", "s", "train", 1])
    with pytest.raises(UserError, match="lists 1 utterance ids more than once: a"):
        _ = CSVCorpus(path).utterances


def test_overlap_is_refused_unless_allowed(table: Table) -> None:
    path = table(COLUMNS, ["a.wav", "s", "train", 1], ["b.wav", "s", "test", 1])
    with pytest.raises(UserError, match="split test1: 1 of its speakers stand in train as well: s"):
        _ = CSVCorpus(path).splits
    assert len(CSVCorpus(path, allow_overlap=["Test"]).splits.test["test1"]) == 1


def test_missing_and_unreadable_audio_has_no_duration(table: Table) -> None:
    path = table(COLUMNS, ["gone.wav", "s", "train", 1], ["noise.wav", "s", "train", 1])
    (Path(path).parent / "gone.wav").unlink()
    (Path(path).parent / "noise.wav").write_bytes(b"no sound")
    assert all(isnan(utterance.seconds) for utterance in CSVCorpus(path).utterances)


def test_seconds_of_another_rate(table: Table, wav: Callable[..., None], tmp_path: Path) -> None:
    path = table(COLUMNS, ["a.wav", "s", "train", 1])
    wav(tmp_path / "a.wav", num_samples=44_100, rate=44_100, channels=2)
    assert CSVCorpus(path).utterances[0].seconds == 1.0


def test_nothing_is_read_before_it_is_asked_for() -> None:
    corpus = CSVCorpus("/nowhere/corpus.csv")
    with pytest.raises(UserError, match=r"/nowhere/corpus\.csv: no such file"):
        _ = corpus.utterances


@pytest.mark.parametrize(("argument", "value"), [("scale", (7, 1)), ("adaptation_seconds", 0)])
def test_contradictory_arguments(argument: str, value: object) -> None:
    with pytest.raises(UserError, match=argument):
        CSVCorpus("corpus.csv", **{argument: value})


def test_arguments_come_from_a_config() -> None:
    parser = ArgumentParser()
    parser.add_argument("--corpus", type=Corpus | str)
    config = {"class_path": "CSVCorpus", "init_args": {"path": "x.csv", "scale": [1, 5], "allow_overlap": ["dev"]}}
    corpus = parser.instantiate(parser.parse_object({"corpus": config})).corpus
    assert isinstance(corpus, CSVCorpus)
    assert (corpus.scale, corpus.allow_overlap, str(corpus.label_file)) == ((1, 5), ("validation",), "x.csv")


def test_columns_are_known_in_any_case(table: Table) -> None:
    path = table(["ID", "PATH", "Speaker", "Split", "AROUSAL"], ["a", "a.wav", "s", "train", 3])
    (Path(path).parent / "a.wav").touch()
    (utterance,) = CSVCorpus(path).utterances
    assert (utterance.utterance_id, utterance.speaker_id, utterance.labels["arousal"]) == ("a", "s", 3.0)
    path = table([*COLUMNS, "Arousal"], ["a.wav", "s", "train", 1, 2])
    assert CSVCorpus(path).utterances[0].labels["arousal"] == 1


def test_a_column_that_stands_twice(table: Table) -> None:
    for columns in ([*COLUMNS, "arousal"], [*COLUMNS[:3], "AROUSAL", "Arousal"]):
        with pytest.raises(UserError, match=r"corpus\.csv: has column arousal more than once"):
            _ = CSVCorpus(table(columns, ["a.wav", "s", "train", 1, 2][: len(columns)])).utterances


def test_paths_from_windows(table: Table, tmp_path: Path) -> None:
    path = table(COLUMNS, ["sub/a.wav", "s", "train", 1])
    Path(path).write_text(Path(path).read_text().replace("sub/a.wav", "sub\\a.wav"))
    (utterance,) = CSVCorpus(path).utterances
    assert utterance.path == tmp_path / "sub" / "a.wav"
    assert utterance.seconds == 0.1
