from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
from garbage import refused
from turn_files import VALUES, annotated, rttm, spoken_by_turns, table, textgrid

from ser_personal import EmotionRecognizer
from ser_personal.recognition.turns import Turn


@pytest.fixture
def call(recordings, tmp_path):
    """Two parties, a channel each, by turns."""
    sound, turns = spoken_by_turns(recordings[:6], ["anna", "SPEAKER_01"])
    soundfile.write(tmp_path / "call.wav", sound, 16_000, subtype="FLOAT")
    return [turn._replace(channel=number % 2 + 1) for number, turn in enumerate(turns)], recordings[:6]


def rttm_of_channels(turns, name="call"):
    return "".join(rttm([turn[:3]], name).replace(f" {name} 1 ", f" {name} {turn.channel} ") for turn in turns)


def test_a_call_with_a_party_a_channel_is_two_speakers(call, bundle_folder, tmp_path):
    turns, files = call
    recognizer = EmotionRecognizer.from_pretrained(bundle_folder, cut="energy", device="cpu")
    frame = annotated(bundle_folder, tmp_path, tmp_path / "call.wav", "--channel", "each", "--cut", "energy")
    assert frame["speaker"].unique().tolist() == ["call/left", "call/right"]
    call_, rate = soundfile.read(tmp_path / "call.wav", dtype="float32")
    for number, side in enumerate(("left", "right")):
        alone = recognizer.predict(np.ascontiguousarray(call_[:, number]), f"call/{side}", sample_rate=rate)
        np.testing.assert_allclose(frame[frame["speaker"] == f"call/{side}"][VALUES], alone[VALUES], atol=1e-4)
    (tmp_path / "call.rttm").write_text(rttm_of_channels(turns))
    by_rttm = recognizer.predict(tmp_path / "call.wav", segments=tmp_path / "call.rttm", channel="each")
    assert by_rttm["speaker"].tolist() == ["anna"] * 3 + ["call/SPEAKER_01"] * 3
    alone = recognizer.predict([*files[::2], *files[1::2]], by_rttm["speaker"].tolist())
    np.testing.assert_allclose(by_rttm[VALUES], alone[VALUES], atol=1e-4)


def test_channels_that_do_not_fit(call, conversation, bundle_folder, recognizer, tmp_path, mistake):
    turns, _ = call
    folder = tmp_path / "calls"
    folder.mkdir()
    both, rate = soundfile.read(tmp_path / "call.wav", dtype="float32")
    for name in ("call", "elsewhere", "alone", "nameless"):
        soundfile.write(folder / f"{name}.wav", both, rate, subtype="FLOAT")
    soundfile.write(folder / "mono.wav", both[:, 0], rate, subtype="FLOAT")
    lines = rttm_of_channels(turns) + rttm_of_channels(turns[::2], "alone") + rttm(conversation[0], "mono")
    lines += rttm_of_channels([turn._replace(channel=turn.channel + 1) for turn in turns], "elsewhere")
    (tmp_path / "calls.rttm").write_text(lines)
    flags = ("--segments", tmp_path / "calls.rttm", "--channel", "each")
    assert len(annotated(bundle_folder, tmp_path, folder, *flags, code=1)) == 6
    found = reasons_in(tmp_path)
    assert "aren't on its channels 1 to 2, but on 1. " in found["alone"]
    assert "aren't on its channels 1 to 2, but on 2, 3. " in found["elsewhere"]
    assert "has no turns in" in found["nameless"]
    assert "has one channel" in found["mono"]
    predict = recognizer.predict
    refused("has no channel 2, but 1", predict, folder / "mono.wav", channel="right")
    line = "speaker_ids: the channels say who speaks"
    refused(line, predict, folder / "alone.wav", channel="each", speaker_ids="anna")
    refused("channel each: a waveform has one channel", predict, both[:, 0], channel="each")
    flags = ("--speaker-from", "folder", "--channel", "each", "--model", "m", "--out", tmp_path / "p.csv")
    line = "--speaker_from folder: the segments or channels say who speaks"
    assert line in mistake("annotate", folder, *flags)


def reasons_in(folder):
    (failed,) = folder.glob("*.failed.csv")
    return {Path(file).stem: reason for file, reason in pd.read_csv(failed).itertuples(index=False)}


def test_recordings_of_bad_turns_are_listed_and_the_others_done(conversation, bundle_folder, tmp_path, capsys):
    folder, sound = tmp_path / "talks", (tmp_path / "meeting.wav").read_bytes()
    folder.mkdir()
    for name, content in (
        ("channels", rttm_of_channels([Turn(0, 1, "a", 1), Turn(0, 1, "a", 2)], "channels")),
        ("renamed", rttm([(0, 1, "a")], "somewhere")),
        ("disordered", rttm([(3, 4, "NA"), (0, 2, "NA"), (1, 2, "<NA>")], "disordered")),
    ):
        (folder / f"{name}.wav").write_bytes(sound)
        (folder / f"{name}.rttm").write_text(content)
    frame = annotated(bundle_folder, tmp_path, folder, "--segments", folder, code=1)
    assert {Path(file).stem for file in frame["file"]} == {"disordered"}
    assert "utterances without a speaker stay raw" in capsys.readouterr().out
    found = reasons_in(tmp_path)
    assert found.keys() == {"channels", "renamed", "somewhere"}
    assert "turns on channels 1, 2" in found["channels"]
    assert "has no turns in " in found["renamed"]
    assert "name of their recording's file, without extension" in found["somewhere"]


def test_the_values_are_those_of_single_files_whoever_says_who_speaks(recordings, recognizer, bundle_folder, tmp_path):
    """Three speakers by turns, as one stereo file and as a file for each."""
    pytest.importorskip("praatio", reason="praatio isn't installed (the extra textgrid)")
    names, files = ["anna", "ben", "eve"], recordings[:9]
    tracks, turns = spoken_by_turns(files, names, gap=4_000)
    soundfile.write(tmp_path / "meeting.wav", tracks.sum(1, keepdims=True).repeat(2, 1), 16_000, subtype="FLOAT")
    (tmp_path / "meeting.rttm").write_text(rttm(turns))
    (tmp_path / "turns.csv").write_text(table(turns))
    (tmp_path / "own").mkdir()
    for column, name in enumerate(names):
        own = [turn for turn in turns if turn.speaker_id == name]
        soundfile.write(tmp_path / "own" / f"{name}.wav", tracks[:, column], 16_000, subtype="FLOAT")
        (tmp_path / "own" / f"{name}.TextGrid").write_text(textgrid(own, short=True))
    alone = recognizer.predict(files, names * 3)
    told = {"meeting.wav": ("--segments", tmp_path / "meeting.rttm"), "turns.csv": ("--speaker-from", "column")}
    for audio, who in (told | {"own": ("--segments", tmp_path / "own")}).items():
        frame = annotated(bundle_folder, tmp_path, tmp_path / audio, *who).sort_values("start")
        np.testing.assert_allclose(frame[VALUES], alone[VALUES], atol=1e-4)
        assert frame["speaker"].tolist() == names * 3
        np.testing.assert_allclose(frame[["start", "end"]], [turn[:2] for turn in turns], atol=1e-4)
