from __future__ import annotations

import json
import os
from pathlib import Path
from shutil import copy

import numpy as np
import pandas as pd
import pytest
import soundfile
from rich.console import Console

from ser_personal import CSVCorpus, EmotionDataModule
from ser_personal.corpus import check as kinds
from ser_personal.corpus.check import check, examine
from ser_personal.errors import UserError

COLUMNS = ["path", "speaker", "split", "arousal"]
GOOD = [["a.wav", "s", "train", 2], ["b.wav", "", "train", 4], ["c.wav", "t", "dev", 3]]


def found(path, *, decode=True, **options):
    finding = examine(CSVCorpus(path, **options), Console(quiet=True), decode=decode)
    return [(problem.kind, Path(problem.where).name, problem.detail) for problem in finding.problems]


def test_a_sound_corpus(table, capsys):
    path = table(COLUMNS, *GOOD)
    assert found(path) == []
    assert check(path) == 0
    lines = [line.split() for line in capsys.readouterr().out.replace("│", " ").splitlines()]
    assert ["train", "2", "0.00", "1", "1", "16,000"] in lines
    assert ["train", "0.10", "0.10", "0.10", "0.10", "0.10"] in lines
    assert ["train", *["3.00", "(2.00", "to", "4.00)", "none", "none"]] in lines
    assert ["No", "problem", "found."] in lines


def test_every_kind_of_bad_audio_is_found(table, wav, tmp_path):
    names = ["missing", "unreadable", "hollow", "empty", "short", "stereo", "cut", "long", "hour", "pipe", "folder"]
    path = table(COLUMNS, *GOOD, *([f"{name}.wav", "s", "train", 2] for name in [*names, "long_enough"]))
    for name in ("missing", "pipe", "folder"):
        (tmp_path / f"{name}.wav").unlink()
    os.mkfifo(tmp_path / "pipe.wav")
    (tmp_path / "folder.wav").mkdir()
    (tmp_path / "unreadable.wav").write_bytes(b"no sound at all")
    (tmp_path / "hollow.wav").write_bytes(b"")
    (tmp_path / "cut.wav").write_bytes((tmp_path / "cut.wav").read_bytes()[:-100])
    wav(tmp_path / "empty.wav", num_samples=0)
    wav(tmp_path / "short.wav", num_samples=399)
    wav(tmp_path / "stereo.wav", num_samples=4410, rate=44_100, channels=2)
    wav(tmp_path / "long.wav", num_samples=16 * 16_000)
    wav(tmp_path / "hour.wav", num_samples=121 * 16_000)
    wav(tmp_path / "long_enough.wav", num_samples=400)
    problems = {name: (kind, detail) for kind, name, detail in found(path)}
    assert problems.pop("unreadable.wav")[0] == kinds.UNREADABLE
    assert problems == {
        "missing.wav": (kinds.MISSING, ""),
        "hollow.wav": (kinds.EMPTY, ""),
        "empty.wav": (kinds.EMPTY, ""),
        "short.wav": (kinds.TOO_SHORT, "399 samples"),
        "stereo.wav": (kinds.OTHER_FORMAT, "44100 Hz, 2 channels"),
        "cut.wav": (kinds.TRUNCATED, ""),
        "long.wav": (kinds.CROPPED, "16.0 s"),
        "hour.wav": (kinds.TOO_LONG, "121.0 s"),
        "pipe.wav": (kinds.UNREADABLE, "isn't a file"),
        "folder.wav": (kinds.UNREADABLE, "isn't a file"),
    }


def test_what_only_the_samples_show(table, tmp_path):
    names = ["silent.wav", "offset.wav", "nan.wav", "half.flac", "loud.wav"]
    path = table(COLUMNS, *GOOD, *([name, "s", "train", 2] for name in names))
    rng = np.random.default_rng(0)
    soundfile.write(tmp_path / "silent.wav", np.zeros(1600), 16_000)
    soundfile.write(tmp_path / "offset.wav", np.full(1600, 0.25), 16_000)
    for name, number in (("nan.wav", np.nan), ("loud.wav", 1e7)):
        samples = rng.uniform(-0.5, 0.5, 1600)
        samples[800] = number
        soundfile.write(tmp_path / name, samples, 16_000, subtype="FLOAT")
    soundfile.write(tmp_path / "half.flac", rng.uniform(-0.5, 0.5, 32_000), 16_000)
    content = (tmp_path / "half.flac").read_bytes()
    (tmp_path / "half.flac").write_bytes(content[: len(content) // 2])
    problems = {name: kind for kind, name, _ in found(path)}
    assert problems.pop("half.flac") in {kinds.TRUNCATED, kinds.UNREADABLE}
    assert problems == dict.fromkeys(names[:2], kinds.SILENT) | {"nan.wav": kinds.NO_SOUND, "loud.wav": kinds.NO_SOUND}
    assert found(path, decode=False) == []


def test_problems_of_labels_and_sets(table):
    rows = [["x.wav", "s", "test", 9], ["y.wav", "u", "test", ""], ["y.flac", "u", "test", 1]]
    path = table(COLUMNS, *GOOD[:2], *rows)
    assert found(path) == [
        (kinds.EMPTY_SET, "validation", ""),
        (kinds.SHARED_SPEAKER, "s", "test1"),
        (kinds.DUPLICATE_ID, "y", ""),
        (kinds.LABEL_OUTSIDE, "x", "arousal 9"),
        (kinds.LABEL_MISSING, "y", "arousal"),
    ]
    assert found(path, allow_overlap=["test"])[1] == (kinds.ALLOWED_SPEAKER, "s", "test1")
    assert found(table(COLUMNS, *GOOD, ["d.wav", "t", "test", 1])) == [(kinds.VALIDATION_SPEAKER, "t", "test1")]


@pytest.mark.parametrize(
    ("column", "cell", "kind"), [("arousal", "", kinds.NO_LABEL), ("speaker", "Unknown", kinds.NO_SPEAKER)]
)
def test_sets_that_some_stage_cannot_use(table, column, cell, kind):
    place = COLUMNS.index(column)
    path = table(COLUMNS, *([*row[:place], cell, *row[place + 1 :]] for row in GOOD[:2]), GOOD[2])
    assert (kind, "train", "") in found(path)
    assert check(path) == 0


def test_the_same_audio_under_several_ids(table, tmp_path):
    path = table(COLUMNS, *GOOD, *([f"{name}.wav", "s", "train", 2] for name in "defg"), ["h.wav", "v", "test", 2])
    for original, twin in ("de", "ah"):
        copy(tmp_path / f"{original}.wav", tmp_path / f"{twin}.wav")
    (tmp_path / "g.wav").unlink()
    (tmp_path / "g.wav").symlink_to(tmp_path / "f.wav")
    assert found(path, decode=False) == [
        (kinds.LEAKED_AUDIO, "a.wav", "a in train, h in test1"),
        (kinds.SAME_AUDIO, "d.wav", "d in train, e in train"),
        (kinds.SAME_AUDIO, "f.wav", "f in train, g in train"),
    ]


@pytest.mark.parametrize(
    ("row", "code"),
    [(["d.wav", "s", "train", 9], 1), (["d.wav", "s", "dev", 2], 1), (["d.wav", "v", "dev", ""], 0)],
)
def test_exit_code_says_whether_training_would_fail(row, code, table):
    assert check(table(COLUMNS, *GOOD, row)) == code


def test_a_line_a_kind_with_the_first_names(table, wav, tmp_path, capsys):
    path = table(COLUMNS, *GOOD, ["stereo.wav", "s", "train", 1], *([f"[{n}].wav", "s", "train", 1] for n in range(5)))
    wav(tmp_path / "stereo.wav", channels=2)
    for n in range(5):
        (tmp_path / f"[{n}].wav").unlink()
    assert check(path) == 1
    error, note, read = capsys.readouterr().out.splitlines()[-3:]
    names = ", ".join(str(tmp_path / f"[{n}].wav") for n in range(3))
    assert error == f"error: audio file missing: 5: {names} and 2 more"
    assert note.startswith("note: audio not 16 kHz mono, converted on the fly: 1: ")
    assert read.endswith(", every sample.")


def test_names_are_no_markup(table, capsys):
    assert check(table(COLUMNS, *GOOD, ["d.wav", "v", "[red]odd[/red]", 2], ["e.wav", "v", "[/x]", ""])) == 0
    shown = capsys.readouterr().out
    assert shown.count("[red]odd[/red]") == shown.count("[/x] ") == 3


def test_json_holds_every_problem_and_what_was_looked_at(table, tmp_path):
    path = table(COLUMNS, *GOOD, *([f"{n}.wav", "s", "train", 1] for n in range(5)), ["9.wav", "s", "train", 9])
    for n in range(5):
        (tmp_path / f"{n}.wav").unlink()
    out = tmp_path / "found" / "problems.json"
    assert check(path, json=str(out), decode=False) == 1
    content = json.loads(out.read_text())
    assert content["looked_at"] == {"headers": True, "equal_sizes": True, "samples": False}
    assert content["training_would_fail"]
    missing = next(group for group in content["problems"] if group["kind"] == kinds.MISSING.title)
    assert missing["count"] == 5
    assert [Path(place["where"]).name for place in missing["places"]] == [f"{n}.wav" for n in range(5)]
    train = content["sets"]["train"]
    assert (train["utterances"], train["sample_rates"]) == (8, {"16000": 3})
    assert train["labels"] == {"arousal": {"utterances": 8, "mean": 2.5, "lowest": 1.0, "highest": 9.0}}


def test_the_usable_part_is_written_and_trains(table, tmp_path):
    bad = [
        ["gone.wav", "s", "train", 1],
        ["9.wav", "NA", "train", 9],
        ["d.wav", "v", "test", 2],
        ["d.flac", "v", "test", 2],
    ]
    path = table(COLUMNS, *GOOD, *bad, ["sub/e.wav", "None", "train", 5])
    (tmp_path / "gone.wav").unlink()
    for clean in (tmp_path / "clean.csv", tmp_path / "elsewhere" / "clean.csv"):
        assert check(path, write=str(clean)) == 0
        left_out = pd.read_csv(clean.with_suffix(".left_out.csv"), dtype=str, keep_default_na=False)
        assert dict(zip(left_out.utterance, left_out.reason, strict=True)) == {
            "gone": "audio file missing",
            "9": "label outside the scale (arousal 9)",
            "d": "utterance id listed more than once",
        }
        assert list(left_out.path) == [str(tmp_path / name) for name in ("9.wav", "d.wav", "d.flac", "gone.wav")]
        assert check(str(clean)) == 0
        usable = {each.utterance_id: each for each in CSVCorpus(str(clean)).utterances}
        assert list(usable) == ["a", "b", "c", "sub/e"]
        assert (usable["sub/e"].speaker_id, usable["a"].labels["arousal"]) == ("None", 2)
        data = EmotionDataModule(str(clean), num_workers=0)
        data.setup("fit")
        assert data.train_speaker_ids == ["None", "s"]


def test_what_only_the_user_can_decide_is_left_and_still_an_error(table, tmp_path, capsys):
    path = table(COLUMNS, *GOOD, ["d.wav", "s", "test", 2], ["gone.wav", "t", "train", 1])
    (tmp_path / "gone.wav").unlink()
    assert check(path, write=str(tmp_path / "clean.csv")) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "error: speaker in train and in another set: 1: s (test1)"


@pytest.mark.parametrize("written", ["clean.csv", "clean.left_out.csv", "found.json"])
def test_files_are_replaced_only_where_asked(table, tmp_path, written):
    path = table(COLUMNS, *GOOD)
    arguments = {"write": str(tmp_path / "clean.csv"), "json": str(tmp_path / "found.json")}
    (tmp_path / written).write_text("mine")
    with pytest.raises(UserError, match=f"{written}: exists already. Give another name, or replace it with --replace"):
        check(path, **arguments)
    assert (tmp_path / written).read_text() == "mine"
    assert check(path, **arguments, replace=True) == 0
    assert (tmp_path / written).read_text() != "mine"


def test_nothing_usable_or_nothing_readable(table, tmp_path):
    path = table(COLUMNS, ["a.wav", "s", "train", 9])
    with pytest.raises(UserError, match="no utterance is usable"):
        check(path, write=str(tmp_path / "clean.csv"))
    assert not (tmp_path / "clean.csv").exists()
    with pytest.raises(UserError, match="no such file"):
        check(str(tmp_path / "nowhere.csv"))
