import re
import shlex
from pathlib import Path

import numpy as np
import pandas as pd
import soundfile
from command_line import ser
from garbage import refused
from rich.console import Console

from ser_personal import CSVCorpus, EmotionDataModule
from ser_personal.corpus import check as kinds
from ser_personal.corpus.check import check, examine

COLUMNS = ["path", "speaker", "split", "arousal"]
GOOD = [["a.wav", "s", "train", 2], ["b.wav", "", "train", 4], ["c.wav", "t", "dev", 3], ["v.wav", "t", "dev", 5]]


def found(path, *, decode=True, **options):
    _, problems = examine(CSVCorpus(path, **options), Console(quiet=True), decode=decode)
    return [(problem.kind, Path(problem.where).name, problem.detail) for problem in problems]


def test_a_sound_corpus(table, capsys):
    path = table(COLUMNS, *GOOD)
    assert (found(path), check(path)) == ([], 0)
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "train 2 0.0 1 1" in lines
    assert any(line.startswith("train 0.10 (0.10 to 0.10) 3.00 (2.00 to 4.00) none none") for line in lines)
    assert lines[-1] == "No problem found."


def test_unusable_audio_is_an_error_in_the_words_of_decoding_and_odd_audio_a_note(table, wav, tmp_path):
    names = ["missing", "short", "half", "stereo", "long", "long_enough"]
    path = table(COLUMNS, *GOOD, *([f"{name}.wav", "s", "train", 2] for name in names))
    (tmp_path / "missing.wav").unlink()
    soundfile.write(tmp_path / "half.wav", np.random.default_rng(0).uniform(-0.5, 0.5, 32_000), 16_000, format="FLAC")
    content = (tmp_path / "half.wav").read_bytes()
    (tmp_path / "half.wav").write_bytes(content[: len(content) // 2])
    for name, num_samples in (("short", 399), ("long_enough", 400), ("long", 16 * 16_000)):
        wav(tmp_path / f"{name}.wav", num_samples=num_samples)
    wav(tmp_path / "stereo.wav", num_samples=4410, rate=44_100, channels=2)
    problems = {name: (kind, detail) for kind, name, detail in found(path)}
    assert problems.pop("half.wav")[0].fatal
    assert problems == {
        "missing.wav": (("no such audio file", True), ""),
        "short.wav": (("is shorter than one frame, 400 samples at 16 kHz", True), ""),
        "stereo.wav": (kinds.OTHER_FORMAT, "44100 Hz, 2 channels"),
        "long.wav": (kinds.CROPPED, "16.0 s"),
    }
    assert {name for kind, name, _ in found(path, decode=False) if kind.fatal} == {"missing.wav", "short.wav"}


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
    assert found(path, allow_overlap=["test"])[1][0] == kinds.DUPLICATE_ID
    assert found(table(COLUMNS, *GOOD, ["1.wav", "t", "test1", 1])) == [(kinds.VALIDATION_SPEAKER, "t", "test1")]
    others = [[f"{name}.wav", name, name, 3] for name in ("trian", "held_out", "Test-2", "test_clean")]
    assert found(table(COLUMNS, *GOOD, *others)) == [(kinds.OTHER_SPLIT, name, "") for name in ("held_out", "trian")]
    assert found(table(COLUMNS, *GOOD[:3], ["v.wav", "t", "dev", 3])) == [(kinds.ONE_LABEL, "arousal", "")]
    # which some stages can use
    path = table(COLUMNS, ["a.wav", "Unknown", "train", ""], GOOD[2], GOOD[3])
    assert found(path)[:2] == [(kinds.NO_SPEAKER, "train", ""), (kinds.NO_LABEL, "train", "")]
    assert check(path) == 0


def test_labels_off_the_scale_name_flags_that_paste(table, capsys):
    path = table(COLUMNS, *GOOD, ["x.wav", "s", "train", 9])
    assert ser("check", path) == 1
    _, *command = shlex.split(re.findall("`(.*?)`", capsys.readouterr().out)[-1])
    assert ser(*command) == 0
    flags = f"--data.corpus CSVCorpus --data.corpus.path {path} --data.corpus.scale '[1,9]'"
    refused(f"x: arousal is 9, outside.* as `{re.escape(flags)}`", lambda: CSVCorpus(path).utterances)


def test_one_recording_under_several_ids_is_found_whatever_its_container(table, tmp_path):
    path = table(COLUMNS, *GOOD, ["d.flac", "v", "test", 2], *([f"{name}.wav", "s", "train", 2] for name in "ef"))
    samples = np.random.default_rng(5).integers(-9999, 9999, 8000, dtype=np.int16)
    for name in ("a.wav", "d.flac"):
        soundfile.write(tmp_path / name, samples, 16_000)
    (tmp_path / "f.wav").unlink()
    (tmp_path / "f.wav").symlink_to(tmp_path / "e.wav")
    leaked = kinds.LEAKED_AUDIO, "a.wav", "a in train, d in test1"
    assert found(path) == [leaked, (kinds.SAME_AUDIO, "e.wav", "e in train, f in train")]
    assert found(path, decode=False) == []


def test_segments_of_one_recording(table, wav, tmp_path):
    columns = [*COLUMNS, "start", "end"]
    rows = [["m.wav", "s", "train", 2, *part] for part in ((0, 1), (1, "0:00:02.5"), (7, 11), (12, 13), (8, 8.01))]
    path = table(columns, *([*row, "", ""] for row in GOOD), *rows)
    wav(tmp_path / "m.wav", num_samples=160_000)
    outside = ("a segment lies outside the recording's 10.00 s", True), "m.wav", ""
    assert found(path) == [outside, outside, (("is shorter than one frame, 400 samples at 16 kHz", True), "m.wav", "")]
    assert check(path, write=str(tmp_path / "clean.csv")) == 0
    kept = CSVCorpus(str(tmp_path / "clean.csv")).utterances
    assert [(each.start, each.seconds) for each in kept[3:5]] == [(0, 1), (1, 1.5)]
    overlapping = [["m.wav", "s", "train", 2, 0, 6], ["m.wav", "w", "test", 2, 4, 9]]
    path = table(columns, *([*row, "", ""] for row in GOOD), *overlapping)
    wav(tmp_path / "m.wav", num_samples=160_000)
    assert found(path) == [(kinds.LEAKED_AUDIO, "m.wav", "m_0.000 in train, m_4.000 in test1")]


def test_a_line_a_kind_with_the_first_names(table, tmp_path, capsys):
    names = [tmp_path / f"[{n}].wav" for n in range(5)]
    path = table(COLUMNS, *GOOD, *([name.name, "s", "train", 1] for name in names), ["e.wav", "v", "[/x]", 2])
    for name in names:
        name.unlink()
    assert check(path) == 1
    error, note = capsys.readouterr().out.splitlines()[-2:]
    assert error == f"error: no such audio file (5): {', '.join(map(str, names[:3]))} and 2 more"
    # names of splits are no markup
    assert note.endswith(": [/x]")


def test_the_usable_part_is_written_and_trains(table, tmp_path):
    twice = [["d.wav", "v", "test", 2], ["d.flac", "v", "test", 2]]
    bad = [["gone.wav", "s", "train", 1], ["9.wav", "NA", "train", 9], *twice]
    path = table(COLUMNS, *GOOD, *bad, ["sub/e.wav", "None", "train", 5], ["f.wav", "w", "test", ""])
    (tmp_path / "gone.wav").unlink()
    for clean in (tmp_path / "clean.csv", tmp_path / "elsewhere" / "clean.csv"):
        assert check(path, write=str(clean)) == 0
        listed = pd.read_csv(clean.with_suffix(".problems.csv"), dtype=str, keep_default_na=False)
        assert sorted(map(tuple, listed.to_numpy().tolist())) == [
            ("label missing", "f", "arousal", ""),
            ("label outside the scale", "9", "arousal 9", "9"),
            ("no such audio file", str(tmp_path / "gone.wav"), "", "gone"),
            ("utterance id listed more than once", "d", "", "d"),
        ]
        assert check(str(clean)) == 0
        usable = {each.utterance_id: each for each in CSVCorpus(str(clean)).utterances}
        assert list(usable) == ["a", "b", "c", "f", "sub/e", "v"]
        assert (usable["sub/e"].speaker_id, usable["a"].labels["arousal"]) == ("None", 2)
        data = EmotionDataModule(str(clean), num_workers=0)
        data.setup("fit")
        assert data.train_speaker_ids == ["None", "s"]
    # what only the user can decide is left, and still an error
    path = table(COLUMNS, *GOOD, ["d.wav", "s", "test", 2])
    assert check(path, write=str(clean), replace=True) == 1


def test_files_are_replaced_only_where_asked(table, tmp_path):
    path, clean = table(COLUMNS, *GOOD), str(tmp_path / "clean.csv")
    refused("no utterance is usable", check, table(COLUMNS, ["a.wav", "s", "train", 9]), write=clean)
    refused(r"/clean\.xlsx: .*ends in \.csv", check, path, write=str(tmp_path / "clean.xlsx"))
    for written in ("clean.problems.csv", "clean.csv"):
        (tmp_path / written).write_text("mine")
        refused(f"{written}: exists already", check, path, write=clean)
        assert (tmp_path / written).read_text() == "mine"
    table(COLUMNS, *GOOD)
    assert check(path, write=clean, replace=True) == 0
    assert (tmp_path / "clean.csv").read_text() != "mine"
