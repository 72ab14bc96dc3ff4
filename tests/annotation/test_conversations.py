from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
from command_line import ser
from turn_files import VALUES, annotated, rttm, table, textgrid

from ser_personal import EmotionRecognizer
from ser_personal.audio import decode
from ser_personal.errors import UserError
from ser_personal.recognition.turns import Turn


@pytest.fixture
def call(recordings, tmp_path):
    """Two parties, a channel each, by turns."""
    parts = [decode(path) for path in recordings[:6]]
    samples = np.zeros((sum(map(len, parts)), 2), dtype=np.float32)
    turns, end = [], 0
    for number, part in enumerate(parts):
        samples[end : end + len(part), number % 2] = part
        turns.append(Turn(end / 16_000, (end + len(part)) / 16_000, ["anna", "SPEAKER_01"][number % 2], number % 2 + 1))
        end += len(part)
    soundfile.write(tmp_path / "call.wav", samples, 16_000, subtype="FLOAT")
    return turns, recordings[:6]


def rttm_of_channels(turns, name="call"):
    return "".join(rttm([turn[:3]], name).replace(f" {name} 1 ", f" {name} {turn.channel} ") for turn in turns)


def test_a_call_with_a_party_a_channel_is_two_speakers(call, bundle_folder, tmp_path):
    turns, files = call
    recognizer = EmotionRecognizer.from_pretrained(bundle_folder, cut="energy", device="cpu")
    frame = annotated(bundle_folder, tmp_path, tmp_path / "call.wav", "--channel", "each", "--cut", "energy")
    assert frame["speaker"].unique().tolist() == ["call/left", "call/right"]
    call_, rate = soundfile.read(tmp_path / "call.wav", dtype="float32")
    for number, side in enumerate(("left", "right")):
        one = annotated(bundle_folder, tmp_path, tmp_path / "call.wav", "--channel", side, "--cut", "energy")
        alone = recognizer.predict(np.ascontiguousarray(call_[:, number]), f"call/{side}", sample_rate=rate)
        own = frame[frame["speaker"] == f"call/{side}"]
        np.testing.assert_allclose(own[VALUES], alone[VALUES], atol=1e-4)
        np.testing.assert_allclose(one[VALUES[:2]], alone[VALUES[:2]], atol=1e-4)
        assert one["speaker"].isna().all()
    nameless = annotated(bundle_folder, tmp_path, tmp_path / "call.wav", "--channel", "each", "--speaker-from", "none")
    assert nameless["speaker"].isna().all()
    (tmp_path / "call.rttm").write_text(rttm_of_channels(turns))
    by_rttm = recognizer.predict(tmp_path / "call.wav", segments=tmp_path / "call.rttm", channel="each")
    assert by_rttm["speaker"].tolist() == ["anna"] * 3 + ["call/SPEAKER_01"] * 3
    alone = recognizer.predict([*files[::2], *files[1::2]], by_rttm["speaker"].tolist())
    np.testing.assert_allclose(by_rttm[VALUES], alone[VALUES], atol=1e-4)
    again = recognizer.predict(tmp_path / "call.wav", segments=[tuple(turn) for turn in turns], channel="each")
    np.testing.assert_allclose(again[VALUES], by_rttm[VALUES], atol=1e-4)


def test_channels_that_do_not_fit(call, conversation, bundle_folder, tmp_path, capsys):
    turns, _ = call
    folder = tmp_path / "calls"
    folder.mkdir()
    both, rate = soundfile.read(tmp_path / "call.wav", dtype="float32")
    for name in ("call", "elsewhere", "alone", "nameless"):
        soundfile.write(folder / f"{name}.wav", both, rate, subtype="FLOAT")
    soundfile.write(folder / "mono.wav", both[:, 0], rate, subtype="FLOAT")
    (folder / "broken.wav").write_bytes(b"nothing")
    lines = rttm_of_channels(turns) + rttm_of_channels(turns[::2], "alone") + rttm(conversation[0], "mono")
    lines += rttm_of_channels([turn._replace(channel=turn.channel + 1) for turn in turns], "elsewhere")
    (tmp_path / "calls.rttm").write_text(lines + rttm_of_channels(turns, "broken"))

    def reasons(*flags):
        frame = annotated(bundle_folder, tmp_path, folder, *flags, code=1)
        (failed,) = tmp_path.glob("*.failed.csv")
        table = dict(pd.read_csv(failed).to_numpy().tolist())
        failed.unlink()
        return len(frame), {Path(source).stem: reason for source, reason in table.items()}

    rows, found = reasons("--segments", tmp_path / "calls.rttm", "--channel", "each")
    assert rows == 6
    assert found["alone"] == "has turns on channel 1 alone"
    assert "turns that aren't on its channels 1 to 2" in found["elsewhere"]
    assert "has no turns in" in found["nameless"]
    assert found["mono"] == "has one channel (--channel each takes several)"
    assert "can't be decoded" in found["broken"]
    assert reasons("--channel", "right")[1]["mono"] == "has no channel 2, but 1 (channel 2)"
    assert reasons()[1]["call"].endswith("hold different voices (--channel each takes them for a speaker each)")
    soundfile.write(folder / "call.wav", np.stack([both[:, 0], -both[:, 0]], 1), rate, subtype="FLOAT")
    assert reasons()[1]["call"].endswith("cancel one another when mixed (--channel left takes one)")
    soundfile.write(folder / "call.wav", both * [1, 0], rate, subtype="FLOAT")
    assert reasons("--channel", "each")[1]["call"] == "is silent from beginning to end (channel 2)"
    for flags in (("--speaker-from", "folder"), ("--speaker-from", "column")):
        assert ser("annotate", folder, *flags, "--channel", "each", "--model", "m", "--out", tmp_path / "p.csv") == 2
    assert "--speaker_from folder: the channels say who speaks" in capsys.readouterr().err
    recognizer = EmotionRecognizer.from_pretrained(bundle_folder, device="cpu")
    for audio, options, what in (
        (folder / "alone.wav", {"speaker_ids": "anna"}, "speaker_ids: the channels say who speaks"),
        (both[:, 0], {}, "channel each: a waveform has one channel"),
    ):
        with pytest.raises(UserError, match=what):
            recognizer.predict(audio, channel="each", **options)


GRID = [Turn(0, 2, "anna"), Turn(2, 4, "ben")]
POINTS = (
    'File type = "ooTextFile"\nObject class = "TextGrid"\n\n0\n2\n<exists>\n1\n"TextTier"\n"p"\n0\n2\n1\n1.0\n"x"\n'
)
EMPTY = '"IntervalTier"\n"nobody"\n0\n4\n1\n0\n4\n""\n'


@pytest.mark.parametrize(
    ("name", "text", "what"),
    [
        ("elsewhere.rttm", rttm([(0, 1, "a")], "elsewhere"), "are (Call them as the recording without its"),
        ("bad.rttm", rttm([(2, 1, "a")], "bad"), "turn of bad/a from 2 to 1 s lasts no time"),
        ("bad.rttm", rttm([(1, 1, "anna")], "bad"), "lasts no time"),
        ("bad.rttm", rttm([(0, 1, "a"), (900, 901, "b")], "bad"), "turn of bad/b from 900 to 901 s is past the end"),
        ("bad.rttm", "SPEAKER bad 1 0,5 1,0 <NA> <NA> x <NA> <NA>", "isn't RTTM in "),
        ("bad.rttm", "SPEAKER bad left 0.5 1.0 <NA> <NA> x <NA> <NA>", "isn't RTTM in "),
        ("bad.rttm", b"\xff\xfe\x00", "isn't UTF-8 text in "),
        ("bad.rttm", "", "has no turns in "),
        ("bad.rttm", rttm([(3, 4, "NA"), (0, 2, "NA"), (1, 2, "<NA>")], "bad"), None),
        ("bad.TextGrid", textgrid(GRID, short=True).replace("ben", "anna"), "isn't a whole TextGrid"),
        ("bad.TextGrid", textgrid(GRID, short=False).replace("xmax = 2", "xmax = 2,0"), "isn't a whole TextGrid"),
        ("bad.TextGrid", POINTS, "has points alone"),
        ("bad.TextGrid", textgrid(GRID, short=True).replace("<exists>\n2", "<exists>\n3") + EMPTY, None),
        ("bad.wav", b"RIFF" + b"\0" * 40, "can't be decoded"),
        ("bad.wav", None, "is truncated: its header announces more than it holds"),
    ],
)
def test_bad_input_of_one_recording(conversation, bundle_folder, tmp_path, name, text, what, capsys):
    """The others are done, and it is listed, or done where nothing is wrong with it."""
    if name.endswith("TextGrid"):
        pytest.importorskip("praatio", reason="praatio isn't installed (the extra textgrid)")
    folder, turns = tmp_path / "talks", conversation[0]
    folder.mkdir()
    sound = (tmp_path / "meeting.wav").read_bytes()
    for each in ("good", "bad"):
        (folder / f"{each}.wav").write_bytes(sound)
    for each in ("good", "bad")[: 1 if name.startswith("bad") and not name.endswith("wav") else 2]:
        (folder / f"{each}.rttm").write_text(rttm(turns, each))
    content = sound[: len(sound) // 2] if text is None else text
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    frame = annotated(bundle_folder, tmp_path, folder, "--segments", folder, code=int(what is not None))
    assert (frame["file"] == str(folder / "good.wav")).sum() == 6
    if what is None:
        assert (frame["file"] == str(folder / "bad.wav")).sum() > 1
        return
    (listed,) = [pd.read_csv(path) for path in tmp_path.glob("*.failed.csv")]
    assert what in listed["reason"].item()
    assert Path(listed["file"].item()).stem == Path(name).stem
    shown = [line for line in capsys.readouterr().out.splitlines() if line.startswith("failed: ")]
    assert len(shown) == 1


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("path,speaker,start\nmeeting.wav,anna,0\n", "one of the columns start and end alone"),
        (
            'path,speaker,start,end\nmeeting.wav,anna,"0,5","1,5"\n',
            "start is '0,5', no time. Write seconds, such as 7.5",
        ),
        ("path,speaker,start,end\nmeeting.wav,anna,2,1\n", "ends at 1 s and starts at 2 s"),
        ("path,speaker,start,end\nmeeting.wav,anna,-1,1\n", "start is '-1', no time"),
    ],
)
def test_tables_of_segments_that_are_none(conversation, bundle_folder, tmp_path, text, what, capsys):
    (tmp_path / "t.csv").write_text(text)
    out = tmp_path / "p.csv"
    flags = ("--speaker-from", "column", "--model", bundle_folder, "--out", out)
    assert ser("annotate", tmp_path / "t.csv", *flags) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert what in line
    assert not out.exists()


def test_a_speaker_called_na(conversation, bundle_folder, tmp_path):
    (tmp_path / "t.csv").write_text("path,speaker,start,end\nmeeting.wav,NA,0.5,2\nmeeting.wav,,0.5,2\n")
    annotated(bundle_folder, tmp_path, tmp_path / "t.csv", "--speaker-from", "column")
    (out,) = [path for path in tmp_path.glob("*.csv") if path.name != "t.csv"]
    frame = pd.read_csv(out, keep_default_na=False)
    assert sorted(frame["speaker"]) == ["", "NA"]
    assert frame.set_index("speaker")["calibration_utterances"].to_dict() == {"NA": 1, "": 0}


SPEECH = Path(os.environ.get("SER_TEST_SPEECH", "speech")) / "ravdess"


@pytest.mark.skipif(not SPEECH.is_dir(), reason="no real speech here: SER_TEST_SPEECH names a folder with ravdess/")
def test_a_conversation_of_real_speech(bundle_folder, tmp_path):
    """Three speakers by turns, as one stereo file and as one for each, whoever says when they speak."""
    table_ = pd.read_csv(SPEECH / "corpus.csv")
    names = sorted(table_["speaker"].unique())[:3]
    files = [
        SPEECH / path
        for n in range(20)
        for name in names
        for path in table_[table_["speaker"] == name]["path"][n : n + 1]
    ]
    parts, speakers = [decode(path) for path in files], names * 20
    ends = np.cumsum([len(part) + 4_000 for part in parts])
    turns = [
        Turn((end - len(part)) / 16_000, end / 16_000, who)
        for end, part, who in zip(ends, parts, speakers, strict=True)
    ]
    tracks = np.zeros((int(ends[-1]), 3), dtype=np.float32)
    for end, part, who in zip(ends, parts, speakers, strict=True):
        tracks[end - len(part) : end, names.index(who)] = part
    soundfile.write(tmp_path / "meeting.wav", tracks.sum(1, keepdims=True).repeat(2, 1), 16_000, subtype="FLOAT")
    forms = {"meeting.rttm": rttm(turns), "turns.csv": table(turns), "own.rttm": ""}
    for column, name in enumerate(names):
        own = [turn for turn in turns if turn.speaker_id == name]
        soundfile.write(tmp_path / f"{name}.wav", tracks[:, column], 16_000, subtype="FLOAT")
        forms["own.rttm"] += rttm(own, name)
        forms[f"grids/{name}.TextGrid"] = textgrid(own, short=True)
    forms["meeting.TextGrid"] = textgrid(turns, short=False)
    forms["own.csv"] = "path,speaker,start,end\n" + "".join(
        f"{turn.speaker_id}.wav,{turn.speaker_id},{turn.start:.6f},{turn.end:.6f}\n" for turn in turns
    )
    (tmp_path / "grids").mkdir()
    (tmp_path / "own").mkdir()
    for name, text in forms.items():
        (tmp_path / name).write_text(text)
    for name in names:
        (tmp_path / "own" / f"{name}.wav").symlink_to(tmp_path / f"{name}.wav")
    alone = EmotionRecognizer.from_pretrained(bundle_folder, device="cpu").predict(files, speakers)
    grids = importlib.util.find_spec("praatio") is not None
    for audio, segments in (
        *(("meeting.wav", "meeting.rttm"), ("turns.csv", None), ("own", "own.rttm"), ("own.csv", None)),
        *((("meeting.wav", "meeting.TextGrid"), ("own", "grids")) if grids else ()),
    ):
        who = ("--segments", tmp_path / segments) if segments else ("--speaker-from", "column")
        frame = annotated(bundle_folder, tmp_path, tmp_path / audio, *who).sort_values("start")
        np.testing.assert_allclose(frame[VALUES], alone[VALUES], atol=1e-4)
        assert frame["speaker"].tolist() == speakers
        np.testing.assert_allclose(frame[["start", "end"]], [turn[:2] for turn in turns], atol=1e-4)
