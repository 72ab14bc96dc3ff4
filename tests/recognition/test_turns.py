from functools import partial
from math import inf

import numpy as np
import pytest
from garbage import refused
from hypothesis import given
from hypothesis import strategies as st
from turn_files import annotated, rttm, table, textgrid

from ser_personal.recognition.recordings import Recording, find_recordings, recordings_of, with_turns
from ser_personal.recognition.segmenters import Segment, cut_turns, split_evenly
from ser_personal.recognition.turns import Turn, check_turns, overlap, read_turns

TURNS = st.tuples(st.integers(0, 30), st.integers(1, 30), st.sampled_from(["a", "b", None]))


@pytest.mark.parametrize("form", ["rttm", "folder", "table", "long", "short", "UTF-16"])
def test_turns_are_read_from_every_form(form, tmp_path):
    turns = [Turn(0.5, 2.25, "anna"), Turn(2.25, 3, "Борис"), Turn(4, 5.125, "anna")]
    path = tmp_path / {"rttm": "meeting.rttm", "folder": "meeting.rttm", "table": "t.csv"}.get(form, "meeting.TextGrid")
    odd = "SPKR-INFO x 1\n" + rttm(reversed(turns), "mono vocals 2")
    text = {"rttm": odd, "folder": rttm(turns), "table": table(turns)}.get(form)
    if text is None:
        pytest.importorskip("praatio", reason="praatio isn't installed (the extra textgrid)")
        text = textgrid(turns, short=form != "long")
    path.write_text(text, encoding="utf-16" if form == "UTF-16" else "utf-8")
    ((name, found),) = read_turns(tmp_path if form == "folder" else path).items()
    assert name == {"rttm": "mono vocals 2", "table": "meeting.wav"}.get(form, "meeting")
    assert sorted(turn[:3] for turn in found) == [turn[:3] for turn in turns]


def test_segments_of_another_form(recognizer, conversation, tmp_path):
    predict = partial(recognizer.predict, tmp_path / "meeting.wav")
    for segments in ([[(0, 1, "a")], []], [(0, 1, "a", 2, 3)], [(0,)], [("soon", 1, "a")], [[(0, 1), (1, 2)]]):
        refused("segments: isn't one list of turns per recording", predict, segments=segments)
    refused("meeting.wav: has no turns", predict, segments=[])
    refused("speaker_ids: the segments say who speaks", predict, segments=[(0, 1, "a")], speaker_ids="anna")
    refused("meeting.wav: turn of a from 2 to 1 s isn't in the recording", predict, segments=[(2, 1, "a")])


def test_unknown_is_nobody_wherever_speakers_come_from(recognizer, recordings, tmp_path):
    (tmp_path / "Unknown").mkdir()
    (tmp_path / "Unknown" / "a.wav").write_bytes(recordings[0].read_bytes())
    (tmp_path / "a.rttm").write_text(rttm([(0, 0.5, "<NA>"), (0.5, 1, "unknown")], "a"))
    assert find_recordings(tmp_path, "folder")[0].speaker_id is None
    predicted = recognizer.predict(tmp_path / "Unknown" / "a.wav", segments=tmp_path / "a.rttm")
    assert predicted["speaker"].isna().all()
    assert (predicted["calibration_utterances"] == 0).all()


@pytest.mark.parametrize("form", ["rttm", "folder"])
def test_two_recordings_of_one_name_in_two_folders_keep_their_own_turns(form, tmp_path):
    turns = {"day1": [(0, 0.5, "ben"), (0.5, 1, "SPEAKER_00")], "day2": [(0.2, 0.8, "carl"), (0.6, 1, "B")]}
    segments = tmp_path / {"rttm": "turns.rttm", "folder": "rec"}[form]
    if form == "rttm":
        segments.write_text("".join(rttm(own, f"{day}/meeting") for day, own in turns.items()))
    else:
        for day, own in turns.items():
            (segments / day).mkdir(parents=True)
            (segments / day / "meeting.rttm").write_text(rttm(own))
    recordings = [Recording(f"{day}/meeting.wav", tmp_path / "rec" / day / "meeting.wav") for day in turns]
    found = with_turns(recordings, segments, named=True)
    for (day, own), one in zip(turns.items(), found, strict=True):
        assert [(turn.start, turn.end) for turn in one.turns] == [pytest.approx(turn[:2]) for turn in own]
        assert [turn.speaker_id for turn in one.turns] == [own[0][2], f"{day}/meeting/{own[1][2]}"]
    assert [one.speaker_ids for one in with_turns(recordings, segments, named=False)] == [{None}, {None}]
    # of one of the two alone, the other's turns aren't taken
    (alone, other) = with_turns(recordings[:1], segments, named=True)
    assert alone.turns == found[0].turns
    assert "there is no such recording" in str(other.fault)


def test_which_recording_turns_are_of(tmp_path):
    for named, files, own in (
        ("m.wav", ["day1/m.wav", "day2/m.wav"], ["shares the name m.wav", "Call it day2/m.wav there"]),
        ("elsewhere/m.mp3", ["day3/m.wav"], ["has no turns in"]),
        ("m.wav day1/m.wav", ["m.wav", "day1/m.wav"], ["x", "x"]),
        ("a.wav a.flac", ["a.wav", "a.flac"], ["x", "x"]),
        ("a", ["a.wav", "a.flac"], ["shares the name a"] * 2),
        ("./interview.1 e\u0301.wav", ["interview.1.wav", "\u00e9.wav"], ["x", "x"]),
    ):
        lines = [f"{name},{number},9,anna\n" for number, name in enumerate(named.split())]
        (tmp_path / "turns.csv").write_text("path,start,end,speaker\n" + "".join(lines))
        found = with_turns([Recording(file, tmp_path / file) for file in files], tmp_path / "turns.csv", named=True)
        for number, (one, expected) in enumerate(zip(found, own, strict=False)):
            if expected == "x":
                assert one.turns == (Turn(number, 9, "anna"),), named
            else:
                assert expected in str(one.fault)


def test_tiers_and_intervals_that_are_no_speakers_are_left_out(tmp_path, caplog):
    pytest.importorskip("praatio", reason="praatio isn't installed (the extra textgrid)")
    tiers = ["ORT-MAU", "ben", "ben - words", "ben arousal", "words of ben"]
    labels = ["hello", "SIL", "<p:>", "spn"]
    text = textgrid([Turn(at, at + 1, tier) for tier in tiers for at in range(4)], short=True)
    for at, label in enumerate(labels):
        text = text.replace(f'{at}\n{at + 1}\n"x"', f'{at}\n{at + 1}\n"{label}"')
    (tmp_path / "a.TextGrid").write_text(text)
    assert read_turns(tmp_path / "a.TextGrid") == {"a": (Turn(0, 1, "ben"), Turn(0, 1, "words of ben"))}
    assert caplog.messages[0].endswith("left out, as no speaker's turns: ORT-MAU, ben - words, ben arousal")


def test_a_turn_that_is_listed_twice_counts_once(tmp_path):
    turns = [(0.5, 1.2, "anna"), (1.25, 2.5, "ben"), (1.25, 2.5, "eve")]
    twice = [turns[0], *turns, turns[1]]
    (tmp_path / "meeting.rttm").write_text(rttm(twice))
    (tmp_path / "turns.csv").write_text(table(twice))
    for found, names in (
        (read_turns(tmp_path / "meeting.rttm")["meeting"], ["anna", "ben", "eve"]),
        (recordings_of("meeting.wav", segments=twice)[0].turns, ["anna", "ben", "eve"]),
        (find_recordings(tmp_path / "turns.csv", "none")[0].turns, [None] * 3),
    ):
        assert [turn.speaker_id for turn in found] == names
        assert [turn[:2] for turn in found] == [pytest.approx(turn[:2]) for turn in turns]


def test_long_turns_are_cut_and_short_and_overlapping_ones_marked(conversation, bundle_folder, tmp_path):
    (tmp_path / "meeting.rttm").write_text(rttm([(0.5, 1.2, "anna"), (1.0, 1.01, "ben"), (1.0, 2.5, "eve")]))
    frame = annotated(bundle_folder, tmp_path, tmp_path / "meeting.wav", "--segments", tmp_path / "meeting.rttm")
    assert frame["short"].tolist() == [1, 1, 0]
    np.testing.assert_allclose(frame["overlap"], [0.2, 0.025, 0.2], atol=1e-4)
    cut = cut_turns((Turn(1, inf, "anna"), Turn(0, 2, "ben")), 6 * 16_000, partial(split_evenly, max_samples=32_000))
    assert cut[0] == (Segment(0, 32_000), "ben")
    of_anna = [tuple(piece) for piece, who in cut if who == "anna"]
    assert of_anna == [(16_000, 42_666), (42_666, 69_333), (69_333, 96_000)]


def test_windows_within_turns(conversation, bundle_folder, tmp_path):
    (tmp_path / "meeting.rttm").write_text(rttm([(0.5, 2.5, "anna"), (1.0, 1.3, "ben")]))
    flags = (tmp_path / "meeting.wav", "--segments", tmp_path / "meeting.rttm", "--cut", "windows")
    frame = annotated(bundle_folder, tmp_path, *flags, "--window-seconds", "1", "--hop-seconds", "0.25")
    anna = frame[frame["speaker"] == "anna"]
    np.testing.assert_allclose(anna["start"], [0.5, 0.75, 1.0, 1.25, 1.5], atol=1e-4)
    np.testing.assert_allclose(anna["end"] - anna["start"], 1, atol=1e-4)
    np.testing.assert_allclose(frame.loc[frame["speaker"] == "ben", ["start", "end"]], [[1.0, 1.3]], atol=1e-4)
    assert frame["start"].is_monotonic_increasing


@given(st.lists(TURNS, max_size=8), st.sampled_from(["a", None]))
def test_overlap_is_the_time_in_which_somebody_else_speaks(drawn, speaker):
    """Unknown speakers who speak at once are different ones."""
    turns = [Turn(start, start + length, who) for start, length, who in drawn]

    def somebody_else(second):
        speaking = [turn.speaker_id for turn in turns if turn.start <= second < turn.end]
        return any(who != speaker for who in speaking) or (speaker is None and len(speaking) > 1)

    assert overlap(10 * 16_000, 25 * 16_000, speaker, turns) == sum(map(somebody_else, range(10, 25)))


def test_turns_that_can_not_be_of_a_recording():
    for start, end in ((-1, 1), (3, 3), (float("nan"), 1), (0, float("nan")), (10, 10.2), (0, 10.6)):
        what = f"turn of b from {start} to {end} s isn't in the recording, 0 to 10.00 s"
        refused(what, check_turns, [Turn(0, 10.4, "a"), Turn(start, end, "b")], 160_000)


def test_files_that_hold_no_turns(tmp_path):
    refused("no such file", read_turns, tmp_path / "a.rttm")
    for name, text, what in (
        ("a.rttm", "\nSPEAKER a 1 0,5 1,0 <NA> <NA> x <NA> <NA>", "line 2: isn't RTTM. Write SPEAKER NAME 1 START"),
        ("a.rttm", "SPEAKER a 1 0.5 1.5 <NA> <NA> anna b <NA> <NA>", "line 1: isn't RTTM"),
        ("a.rttm", "", "holds no turn"),
        ("a.txt", "", "is neither .rttm, .TextGrid nor .csv"),
        ("a.csv", "path,start,end\na.wav,1,2", "no column speaker"),
    ):
        (tmp_path / name).write_text(text)
        refused(what, read_turns, tmp_path / name)


def test_textgrids_that_hold_no_turns(tmp_path):
    pytest.importorskip("praatio", reason="praatio isn't installed (the extra textgrid)")
    turns = [Turn(0, 1, "anna"), Turn(1, 2, "ben")]
    short, whole = textgrid(turns, short=True), textgrid(turns, short=False)
    for name, text, what in (
        ("twice", short.replace("ben", "anna"), "same name 'anna'"),
        ("cut", short[:-8], "is truncated: a tier ends before the TextGrid does"),
        ("other", "Object class", "isn't a whole TextGrid"),
        ("decimals", whole.replace("xmax = 2", "xmax = 2,0"), "isn't a whole TextGrid"),
        ("empty", short.replace('"x"', '""'), "has no interval with a label"),
    ):
        (tmp_path / f"{name}.TextGrid").write_text(text)
        refused(rf"{name}\.TextGrid: .*{what}", read_turns, tmp_path / f"{name}.TextGrid")


def test_a_file_of_a_folder_that_cant_be_read_is_left_out_with_a_line(tmp_path, caplog):
    (tmp_path / "good.rttm").write_text(rttm([Turn(0, 1, "anna")], "good"))
    (tmp_path / "bad.rttm").write_text("SPEAKER bad 1 0.0 soon <NA> <NA> anna <NA> <NA>\n")
    assert list(read_turns(tmp_path)) == ["good"]
    assert "bad.rttm" in caplog.text
    (tmp_path / "good.rttm").unlink()
    refused("holds no turn", read_turns, tmp_path)
