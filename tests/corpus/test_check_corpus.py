from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from shutil import copy

import numpy as np
import pytest
import soundfile
from rich.console import Console

from ser_personal.corpus import check as kinds
from ser_personal.corpus.check import check, examine
from ser_personal.corpus.csv_corpus import CSVCorpus
from ser_personal.errors import UserError

COLUMNS = ["path", "speaker", "split", "arousal"]
GOOD = [["a.wav", "s", "train", 2], ["b.wav", "", "train", 4], ["c.wav", "t", "dev", 3]]

Table = Callable[..., str]
Wav = Callable[..., None]


def found(path: str, *, decode: bool = True, **options: object) -> list[tuple[str, str, str]]:
    finding = examine(CSVCorpus(path, **options), Console(quiet=True), decode=decode)
    return [(problem.kind.title, Path(problem.where).name, problem.detail) for problem in finding.problems]


def test_a_sound_corpus(table: Table, capsys: pytest.CaptureFixture[str]) -> None:
    path = table(COLUMNS, *GOOD)
    assert found(path) == []
    assert check(path) == 0
    lines = [line.split() for line in capsys.readouterr().out.replace("│", " ").splitlines()]
    assert ["train", "2", "0.00", "1", "1", "16,000"] in lines
    assert ["train", "0.10", "0.10", "0.10", "0.10", "0.10"] in lines
    assert ["train", *["3.00", "(2.00", "to", "4.00)", "none", "none"]] in lines
    assert ["No", "problem", "found."] in lines


def test_every_kind_of_bad_audio_is_found(table: Table, wav: Wav, tmp_path: Path) -> None:
    names = ["missing", "unreadable", "hollow", "empty", "short", "stereo", "long_enough"]
    path = table(COLUMNS, *GOOD, *([f"{name}.wav", "s", "train", 2] for name in names))
    (tmp_path / "missing.wav").unlink()
    (tmp_path / "unreadable.wav").write_bytes(b"no sound at all")
    (tmp_path / "hollow.wav").write_bytes(b"")
    wav(tmp_path / "empty.wav", num_samples=0)
    wav(tmp_path / "short.wav", num_samples=399)
    wav(tmp_path / "stereo.wav", num_samples=4410, rate=44_100, channels=2)
    wav(tmp_path / "long_enough.wav", num_samples=400)
    problems = {name: (title, detail) for title, name, detail in found(path)}
    assert problems.pop("unreadable.wav")[0] == kinds.UNREADABLE.title
    assert problems == {
        "missing.wav": (kinds.MISSING.title, ""),
        "hollow.wav": (kinds.EMPTY.title, ""),
        "empty.wav": (kinds.EMPTY.title, ""),
        "short.wav": (kinds.TOO_SHORT.title, "399 samples"),
        "stereo.wav": (kinds.OTHER_FORMAT.title, "44100 Hz, 2 channels"),
    }


def test_problems_of_labels_and_sets(table: Table) -> None:
    rows = [
        ["x.wav", "s", "test", 9],
        ["y.wav", "u", "test", ""],
        ["y.flac", "u", "test", 1],
        ["z.wav", "u", "test", 1],
    ]
    path = table(COLUMNS, *GOOD[:2], *rows)
    expected = [
        (kinds.EMPTY_SET.title, "validation", ""),
        (kinds.SHARED_SPEAKER.title, "s", "test1"),
        (kinds.DUPLICATE_ID.title, "y", ""),
        (kinds.LABEL_OUTSIDE.title, "x", "arousal 9"),
        (kinds.LABEL_MISSING.title, "y", "arousal"),
    ]
    assert found(path) == expected
    assert found(path, allow_overlap=["test"])[1] == (kinds.ALLOWED_SPEAKER.title, "s", "test1")


@pytest.mark.parametrize(
    ("row", "code"),
    [(["d.wav", "s", "train", 9], 1), (["d.wav", "s", "dev", 2], 1), (["d.wav", "v", "dev", ""], 0)],
)
def test_exit_code_says_whether_training_would_fail(row: list[object], code: int, table: Table) -> None:
    assert check(table(COLUMNS, *GOOD, row)) == code


def test_a_line_a_kind_with_the_first_names(
    table: Table, wav: Wav, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = table(COLUMNS, *GOOD, ["stereo.wav", "s", "train", 1], *([f"[{n}].wav", "s", "train", 1] for n in range(5)))
    wav(tmp_path / "stereo.wav", channels=2)
    for n in range(5):
        (tmp_path / f"[{n}].wav").unlink()
    assert check(path) == 1
    error, note, looked_at = capsys.readouterr().out.splitlines()[-3:]
    names = ", ".join(str(tmp_path / f"[{n}].wav") for n in range(3))
    assert error == f"error: audio file missing: 5: {names} and 2 more"
    assert note.startswith("note: audio not 16 kHz mono, converted on the fly: 1: ")
    assert looked_at.endswith("and every sample.")


def test_a_table_that_cannot_be_read_is_the_users_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        check(str(tmp_path / "corpus.csv"))


def test_a_truncated_wav_is_named(table: Table, tmp_path: Path) -> None:
    path = table(COLUMNS, *GOOD)
    (tmp_path / "a.wav").write_bytes((tmp_path / "a.wav").read_bytes()[:-100])
    assert found(path) == [(kinds.TRUNCATED.title, "a.wav", "")]


def test_names_are_no_markup(table: Table, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(table(COLUMNS, *GOOD, ["d.wav", "v", "[red]odd[/red]", 2], ["e.wav", "v", "[/x]", ""])) == 0
    shown = capsys.readouterr().out
    assert shown.count("[red]odd[/red]") == shown.count("[/x] ") == 3


@pytest.mark.parametrize(
    ("changed", "kind"), [({"arousal": ""}, kinds.NO_LABEL), ({"speaker": "Unknown"}, kinds.NO_SPEAKER)]
)
def test_sets_that_some_stage_cannot_use(table: Table, changed: dict[str, str], kind: kinds.Kind) -> None:
    rows = [dict(zip(COLUMNS, row, strict=True)) for row in GOOD]
    rows = [row | changed if row["split"] == "train" else row for row in rows]
    path = table(COLUMNS, *(list(row.values()) for row in rows))
    assert (kind.title, "train", "") in found(path)
    assert check(path) == 0


def test_what_only_the_samples_show(table: Table, tmp_path: Path) -> None:
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
    whole = (tmp_path / "half.flac").read_bytes()
    (tmp_path / "half.flac").write_bytes(whole[: len(whole) // 2])
    problems = {name: title for title, name, _ in found(path)}
    assert problems.pop("half.flac") in {kinds.TRUNCATED.title, kinds.UNREADABLE.title}
    assert problems == {
        "silent.wav": kinds.SILENT.title,
        "offset.wav": kinds.SILENT.title,
        "nan.wav": kinds.NO_SOUND.title,
        "loud.wav": kinds.NO_SOUND.title,
    }
    assert found(path, decode=False) == []


def test_long_audio(table: Table, wav: Wav, tmp_path: Path) -> None:
    path = table(COLUMNS, *GOOD, ["long.wav", "s", "train", 2], ["hour.wav", "s", "train", 2])
    wav(tmp_path / "long.wav", num_samples=16 * 16_000)
    wav(tmp_path / "hour.wav", num_samples=121 * 8_000, rate=8_000)
    assert {(title, detail) for title, _, detail in found(path)} == {
        (kinds.CROPPED.title, "16.0 s"),
        (kinds.TOO_LONG.title, "121.0 s"),
        (kinds.OTHER_FORMAT.title, "8000 Hz, 1 channels"),
    }


def test_the_same_audio_under_several_ids(table: Table, tmp_path: Path) -> None:
    path = table(COLUMNS, *GOOD, *([f"{name}.wav", "s", "train", 2] for name in "defg"), ["h.wav", "v", "test", 2])
    for original, twin in ("de", "ah"):
        copy(tmp_path / f"{original}.wav", tmp_path / f"{twin}.wav")
    (tmp_path / "g.wav").unlink()
    (tmp_path / "g.wav").symlink_to(tmp_path / "f.wav")
    assert found(path, decode=False) == [
        (kinds.LEAKED_AUDIO.title, "a.wav", "a in train, h in test1"),
        (kinds.SAME_AUDIO.title, "d.wav", "d in train, e in train"),
        (kinds.SAME_AUDIO.title, "f.wav", "f in train, g in train"),
    ]


def test_a_speaker_that_chooses_the_checkpoint_and_is_tested(table: Table) -> None:
    assert found(table(COLUMNS, *GOOD, ["d.wav", "t", "test", 1])) == [(kinds.VALIDATION_SPEAKER.title, "t", "test1")]


def test_what_is_no_file_does_not_stop_the_check(table: Table, tmp_path: Path) -> None:
    path = table(COLUMNS, *GOOD, ["pipe.wav", "s", "train", 2], ["folder.wav", "s", "train", 2])
    for name in ("pipe.wav", "folder.wav"):
        (tmp_path / name).unlink()
    os.mkfifo(tmp_path / "pipe.wav")
    (tmp_path / "folder.wav").mkdir()
    assert found(path) == [(kinds.UNREADABLE.title, f"{name}.wav", "isn't a file") for name in ("folder", "pipe")]


def test_json_holds_every_problem_and_what_was_looked_at(table: Table, tmp_path: Path) -> None:
    path = table(COLUMNS, *GOOD, *([f"{n}.wav", "s", "train", 1] for n in range(5)), ["9.wav", "s", "train", 9])
    for n in range(5):
        (tmp_path / f"{n}.wav").unlink()
    out = tmp_path / "found" / "problems.json"
    assert check(path, str(out), decode=False) == 1
    content = json.loads(out.read_text())
    assert content["looked_at"] == {"headers": True, "equal_sizes": True, "samples": False}
    assert content["training_would_fail"]
    missing = next(group for group in content["problems"] if group["kind"] == kinds.MISSING.title)
    assert missing["count"] == 5
    assert [Path(place["where"]).name for place in missing["places"]] == [f"{n}.wav" for n in range(5)]
    train = content["sets"]["train"]
    assert (train["utterances"], train["sample_rates"]) == (8, {"16000": 3})
    assert train["labels"] == {"arousal": {"utterances": 8, "mean": 2.5, "lowest": 1.0, "highest": 9.0}}
