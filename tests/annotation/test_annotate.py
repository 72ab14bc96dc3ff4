import os
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
from invented_run import edit_json

from ser_personal.audio import decode
from ser_personal.recognition.network import EmotionNetwork


def test_rows_are_those_of_predict(annotate, recognizer, talk):
    frame = pd.read_csv(annotate(), dtype={"speaker": str})
    paths = sorted(talk.rglob("*.wav"))
    expected = recognizer.predict(paths, [path.parent.name for path in paths])
    pd.testing.assert_frame_equal(frame, expected, atol=1e-5, check_dtype=False)
    assert set(frame["calibration_utterances"]) == {1, 2, 3, 4, 5, 6}


@pytest.mark.parametrize(("before", "done"), [(True, 8), (False, 12)])
def test_an_interrupted_run_resumes_to_the_same_bytes(annotate, killed_at, before, done, tmp_path, capsys):
    whole = annotate(out="whole.csv").read_bytes()
    killed_at(8, before=before)
    assert not (tmp_path / "predictions.csv").exists()
    assert {path.stat().st_mode & 0o77 for path in tmp_path.glob("*.partial*")} == {0}
    capsys.readouterr()
    assert annotate().read_bytes() == whole
    assert f"resuming after {done}" in capsys.readouterr().out
    assert not list(tmp_path.glob("*.partial*"))


def test_another_command_in_the_place_of_an_interrupted_one_is_refused(annotate, refusal, killed_at, tmp_path):
    killed_at(0, before=False)
    assert "with another calibration" in refusal("--calibration", "none")
    assert "with another list of recordings" in refusal(speaker_from="none")
    assert "with another use of --profiles" in refusal("--profiles", tmp_path / "profiles.safetensors")
    with closing(sqlite3.connect(tmp_path / "predictions.csv.partial")) as other:
        other.execute("BEGIN EXCLUSIVE")
        assert "can't be resumed (database is locked)" in refusal()


def test_recordings_that_fail_are_listed_and_the_others_done(annotate, talk, capsys):
    good, anna = pd.read_csv(annotate(out="good.csv")), talk / "anna"
    soundfile.write(anna / "silent.wav", np.zeros(16_000), 16_000)
    soundfile.write(anna / "tone.wav", 0.1 * np.sin(np.arange(16_000) / 5), 16_000)
    for name in ("жук\n.wav", "\x1b[31mred.wav", os.fsdecode(b"\xff\xfe.wav")):
        (anna / name).write_bytes(b"nothing")
    os.mkfifo(anna / "pipe.wav")
    reasons = dict.fromkeys(("жук\n.wav", "\x1b[31mred.wav", "\\xff\\xfe.wav"), "can't be decoded")
    reasons |= {"silent.wav": "is silent", "tone.wav": "no speech was found", "pipe.wav": "isn't a file"}
    out = annotate(code=1)
    shown = [line for line in capsys.readouterr().out.splitlines() if line.startswith("failed: ")]
    pd.testing.assert_frame_equal(pd.read_csv(out), good, atol=1e-4)
    listed = pd.read_csv(out.with_name("predictions.failed.csv"))
    failed = {file.rpartition("/")[2]: reason for file, reason in listed.itertuples(index=False)}
    assert failed.keys() == reasons.keys()
    assert len(shown) == len(reasons)
    assert not any("\x1b" in line for line in shown)
    assert all(reason in failed[name] for name, reason in reasons.items())


def test_whatever_one_recording_raises_the_others_are_done(annotate, talk, monkeypatch):
    good = pd.read_csv(annotate(out="good.csv"))
    broken = sorted((talk / "anna").iterdir())[0]
    samples, forward = len(decode(broken)), EmotionNetwork.forward

    def network(self, batch):
        if samples in batch["num_samples"]:
            raise MemoryError("12 GiB")
        return forward(self, batch)

    monkeypatch.setattr(EmotionNetwork, "forward", network)
    frame, failed = pd.read_csv(annotate(code=1)), pd.read_csv(talk.parent / "predictions.failed.csv")
    assert failed.to_numpy().tolist() == [[str(broken), "can't be recognised (MemoryError: 12 GiB). Leave it out."]]
    others = good[~good["file"].isin(failed["file"])]
    assert frame["file"].tolist() == others["file"].tolist()
    np.testing.assert_allclose(frame["arousal_raw"], others["arousal_raw"], atol=1e-5)


def test_a_part_of_ones_own_is_imported_where_that_is_asked_for(annotate, refusal, copy, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    Path("own_head.py").write_text("from ser_personal.finetune.interpreters import MLPInterpreter as Own")
    edit_json(copy / "config.json", lambda config: config["interpreter"].update(class_path="own_head.Own"))
    assert "If you trust it, give `--import own_head`" in refusal("--model", copy)
    annotate("--model", copy, "--import", "own_head")


def test_where_all_fail_nothing_is_written_and_a_later_success_leaves_no_list(annotate, recordings, tmp_path):
    (tmp_path / "broken.wav").write_bytes(b"nothing")
    flags = ("--vectors", tmp_path / "vectors.npz")
    for _ in range(2):
        assert not annotate(*flags, audio=tmp_path / "broken.wav", code=1).exists()
    assert not annotate(*flags, audio=recordings[0]).with_name("predictions.failed.csv").exists()


def test_what_can_not_be_annotated_and_an_output_that_exists_stays(annotate, refusal, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert "--vectors v.csv: doesn't end in .npz" in refusal("--vectors", "v.csv")
    assert "corpus.csv: no such file" in refusal("--speaker-from", "column")
    assert "--device: gpu can't compute on this machine" in refusal("--device", "gpu")
    assert "--import nowhere: can't be imported" in refusal("--import", "nowhere")
    annotate().write_text("mine")
    assert "predictions.csv: exists already" in refusal()
    assert Path("predictions.csv").read_text() == "mine"
