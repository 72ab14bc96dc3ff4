from __future__ import annotations

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import soundfile
from command_line import ser
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file

from ser_personal import EmotionRecognizer
from ser_personal.annotation.journal import deal
from ser_personal.recognition.recordings import Recording
from ser_personal.recognition.turns import Turn

SHARDS = 4


@pytest.fixture
def talk(recordings, tmp_path):
    """Six speakers, by folders; one recording is broken, and a second one is silent."""
    for number, path in enumerate(recordings):
        folder = tmp_path / "talk" / f"speaker {number % 6}"
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folder / f"{number:02}.wav")
    (tmp_path / "talk" / "speaker 1" / "broken.wav").write_bytes(b"nothing")
    soundfile.write(tmp_path / "talk" / "speaker 4" / "silent.wav", np.zeros(16_000), 16_000)
    return tmp_path / "talk"


@pytest.fixture
def annotate(bundle_folder, talk, tmp_path):
    def run(*flags, out="predictions.csv", model=bundle_folder, codes=(1,)):
        options = ("--model", model, "--out", tmp_path / out, "--speaker-from", "folder", "--device", "cpu")
        assert ser("annotate", talk, *options, *flags) in codes
        return tmp_path / out

    return run


def test_shards_joined_are_one_run_byte_for_byte(annotate, bundle_folder, tmp_path, talk):
    recognizer = EmotionRecognizer.from_pretrained(bundle_folder, profiles=tmp_path / "one.safetensors", device="cpu")
    recognizer.enroll("speaker 2", sorted((talk / "speaker 2").iterdir())[0])
    shutil.copy(tmp_path / "one.safetensors", tmp_path / "many.safetensors")
    whole = annotate("--profiles", tmp_path / "one.safetensors", out="whole.csv")
    flags = ("--profiles", tmp_path / "many.safetensors")
    for number in range(1, SHARDS + 1):
        annotate("--shard", f"{number}/{SHARDS}", *flags, codes=(0, 1))
    parts = sorted(tmp_path.glob(f"predictions.*-of-{SHARDS}.csv"))
    speakers = [set(pd.read_csv(part)["speaker"]) for part in parts]
    assert sum(map(len, speakers)) == len(set().union(*speakers)) == 6
    joined = annotate("--join", *flags)
    assert joined.read_bytes() == whole.read_bytes()
    assert (tmp_path / "predictions.failed.csv").read_bytes() == (tmp_path / "whole.failed.csv").read_bytes()
    one, many = (load_file(tmp_path / f"{name}.safetensors") for name in ("one", "many"))
    assert one.keys() == many.keys()
    assert all((many[name] == array).all() for name, array in one.items())
    assert not list(tmp_path.glob("*.partial"))


def test_shards_that_do_not_belong_together(annotate, copy, talk, tmp_path, capsys):
    def line(*flags, **options):
        annotate(*flags, codes=(2,), **options)
        return capsys.readouterr().err

    assert "has no shard beside it. Make them first, with --shard 1/64" in line("--join")
    for wrong, what in (
        ("0/4", "0/4 is no shard. Give 1/4 to 4/4"),
        ("5/4", "5/4 is no shard"),
        ("three", "three is no shard. Give 1/64 to 64/64"),
    ):
        assert what in line(f"--shard={wrong}")
    assert "--shard: makes a shard, and --join one table" in line("--shard", "1/2", "--join")
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "model": "another"}))
    for number in (1, 2):
        annotate("--shard", f"{number}/2", codes=(0, 1))
    assert "run with another model" in line("--join", model=copy)
    assert "run with another calibration" in line("--join", "--calibration", "none")
    (tmp_path / "predictions.2-of-2.csv.partial").unlink()
    assert "lacks 1 of its 2 shards, or they aren't done: 2/2. Run --shard 2/2" in line("--join")
    (tmp_path / "predictions.3-of-5.csv.partial").touch()
    assert "has shards of 2 and of 5 beside it. Delete those of one" in line("--join")
    (talk / "speaker 1" / "broken.wav").unlink()
    (tmp_path / "predictions.3-of-5.csv.partial").unlink()
    assert "another list of recordings" in line("--join")
    assert not (tmp_path / "predictions.csv").exists()


@given(st.lists(st.sets(st.sampled_from("abcdefgh"), max_size=3), max_size=12), st.integers(1, 5))
def test_each_recording_is_in_one_shard_and_speakers_who_meet_are_together(speakers, count):
    recordings = [
        Recording(f"{number}.wav", np.zeros(0), None, tuple(Turn(0, 1, one) for one in sorted(names)))
        for number, names in enumerate(speakers)
    ]
    dealt = deal(recordings, count)
    assert sorted(place for places in dealt for place in places) == list(range(len(recordings)))
    assert all(places == sorted(places) for places in dealt)
    of_speaker = {}
    for shard, places in enumerate(dealt):
        for place in places:
            for one in speakers[place]:
                assert of_speaker.setdefault(one, shard) == shard
