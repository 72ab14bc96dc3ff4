import numpy as np
import pandas as pd
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from invented_run import edit_json

from ser_personal import EmotionRecognizer
from ser_personal.annotation.journal import deal
from ser_personal.recognition.recordings import Recording
from ser_personal.recognition.turns import Turn


@pytest.fixture
def talk(talk):
    """Three speakers, by folders; a recording of anna is broken, and one of Борис silent."""
    (talk / "anna" / "broken.wav").write_bytes(b"nothing")
    soundfile.write(talk / "Борис" / "silent.wav", np.zeros(16_000), 16_000)
    return talk


def test_shards_joined_are_one_run_byte_for_byte_and_enrol_alike(annotate, bundle_folder, talk, tmp_path):
    def of(name):
        return EmotionRecognizer.from_pretrained(bundle_folder, profiles=tmp_path / f"{name}.safetensors", device="cpu")

    for name in ("one", "many"):
        of(name).enroll("anna", sorted(talk.glob("anna/é*.wav"))[:2])
    whole = annotate("--profiles", tmp_path / "one.safetensors", out="whole.csv", code=1)
    assert pd.read_csv(whole).query("speaker == 'anna'")["calibration_utterances"].tolist() == [2, 2, 3, 4, 5, 6]
    flags = ("--profiles", tmp_path / "many.safetensors")
    for number in range(1, 4):
        annotate("--shard", f"{number}/3", *flags, code=None)
    speakers = [set(pd.read_csv(part)["speaker"]) for part in tmp_path.glob("predictions.*-of-3.csv")]
    assert sum(map(len, speakers)) == len(set().union(*speakers)) == 3
    assert annotate("--join", *flags, code=1).read_bytes() == whole.read_bytes()
    assert (tmp_path / "predictions.failed.csv").read_bytes() == (tmp_path / "whole.failed.csv").read_bytes()
    one, many = of("one").profiles, of("many").profiles
    assert one.ids == many.ids == ["anna"]
    assert one["anna"].utterances == 6
    assert one["anna"].equals(many["anna"])
    assert not list(tmp_path.glob("*.partial"))


def test_shards_that_do_not_belong_together(annotate, refusal, copy, talk, tmp_path):
    assert "has no shards" in refusal("--join")
    for wrong in ("0/4", "5/4", "three"):
        assert f"{wrong} isn't a shard" in refusal(f"--shard={wrong}")
    assert "--shard: makes a shard, and --join one table" in refusal("--shard", "1/2", "--join")
    edit_json(copy / "config.json", lambda config: config.update(model="another"))
    for number in (1, 2):
        annotate("--shard", f"{number}/2", code=None)
    assert "run with another model" in refusal("--join", "--model", copy)
    (tmp_path / "predictions.2-of-2.csv.partial").unlink()
    there = sorted(tmp_path.iterdir())
    assert "lacks 1 of its 2 shards, or they aren't done: 2/2" in refusal("--join")
    assert sorted(tmp_path.iterdir()) == there
    (tmp_path / "predictions.3-of-5.csv.partial").touch()
    assert "has shards of 2 and of 5" in refusal("--join")
    (talk / "anna" / "broken.wav").unlink()
    (tmp_path / "predictions.3-of-5.csv.partial").unlink()
    assert "another list of recordings" in refusal("--join")
    assert not (tmp_path / "predictions.csv").exists()


@given(st.lists(st.sets(st.sampled_from("abcdefgh"), max_size=3), max_size=12), st.integers(1, 5))
def test_each_recording_is_in_one_shard_and_speakers_who_meet_are_together(speakers, count):
    turns = [tuple(Turn(0, 1, one) for one in sorted(names)) for names in speakers]
    recordings = [Recording(f"{number}.wav", np.zeros(0), None, own) for number, own in enumerate(turns)]
    dealt = deal(recordings, count)
    assert sorted(place for places in dealt for place in places) == list(range(len(recordings)))
    assert all(places == sorted(places) for places in dealt)
    of_speaker = {}
    for shard, places in enumerate(dealt):
        for place in places:
            for one in speakers[place]:
                assert of_speaker.setdefault(one, shard) == shard
