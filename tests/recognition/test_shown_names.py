from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from ser_personal.pseudonyms import pseudonym
from ser_personal.recognition.annotate import in_order_of_names, shown_names
from ser_personal.recognition.recordings import Recording

KEY = bytes(32)
SPEAKERS = st.sampled_from(["anna", "boris", "carla", "dora", None])


def recordings_of(speakers):
    return [Recording(f"{number:03}.wav", Path(f"{number:03}.wav"), who) for number, who in enumerate(speakers)]


def test_nothing_of_a_path_is_left():
    recording = Recording("anna/home/anna_1.wav", Path("anna_1.wav"), "anna")
    assert shown_names(recording, None) == ("anna/home/anna_1.wav", "anna")
    assert shown_names(recording, KEY) == (pseudonym(KEY, recording.source, "recording"), pseudonym(KEY, "anna"))
    assert shown_names(Recording("anna_1.wav", Path("anna_1.wav")), KEY).speaker is None


@given(st.lists(SPEAKERS, max_size=20))
def test_a_speaker_s_recordings_keep_their_order(speakers):
    recordings = recordings_of(speakers)
    ordered = in_order_of_names(recordings, KEY)
    assert sorted(ordered, key=recordings.index) == recordings
    shown = [shown_names(recording, KEY) for recording in ordered]
    assert [each.speaker or each.source for each in shown] == sorted(each.speaker or each.source for each in shown)
    for who in set(speakers) - {None}:
        own = [recording.source for recording in ordered if recording.speaker_id == who]
        assert own == sorted(own)
