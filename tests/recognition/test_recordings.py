from math import inf
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from garbage import refused

from ser_personal.recognition.recordings import Recording, chunks, find_recordings, recordings_of
from ser_personal.recognition.turns import Turn

TONE = (0.1 * np.sin(np.arange(16_000) / 5)).astype(np.float32)


def write(path: Path, samples=TONE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, 16_000, subtype="FLOAT" if path.suffix == ".wav" else None)
    return path


def named(recordings):
    return {Path(recording.source).name: recording.speaker_id for recording in recordings}


@pytest.fixture
def folder(tmp_path):
    for name in ("anna/b.wav", "anna/a.flac", "Борис/日本 語.wav", "top.WAV", "anna/.hidden.wav"):
        write(tmp_path / "talk" / name)
    for name in ("notes.txt", "film.m4a"):
        (tmp_path / "talk" / "anna" / name).write_bytes(b"no sound")
    return tmp_path / "talk"


def test_links_are_followed_once_and_hidden_folders_are_not(folder, tmp_path):
    elsewhere = tmp_path / "elsewhere" / "ben"
    write(elsewhere / "t.wav")
    (folder / "ben").symlink_to(elsewhere)
    (folder / "anna" / "again").symlink_to(elsewhere)
    (elsewhere / "back").symlink_to(folder)
    (folder / "anna" / "dangling").symlink_to(tmp_path / "nowhere")
    write(folder / "anna/.ipynb_checkpoints/b.wav")
    found = find_recordings(folder, "folder")
    paths = ["anna/a.flac", "anna/b.wav", "anna/film.m4a", "ben/t.wav", "top.WAV", "Борис/日本 語.wav"]
    assert [Path(one.source).relative_to(folder).as_posix() for one in found] == paths
    assert [one.speaker_id for one in found] == [*("anna",) * 3, "ben", "talk", "Борис"]


def test_numbers_in_paths_count_by_their_value(tmp_path):
    names = ["s1/9.wav", "s1/10.wav", "s2/take 1.5.wav", "s2/take 1.10.wav", "s10/a.wav", "s10/a1.wav", "s10/a01b.wav"]
    paths = [str(write(tmp_path / name)) for name in names]
    assert [one.source for one in find_recordings(tmp_path, "none")] == paths


def test_speakers_are_the_folders_that_files_lie_in(folder, monkeypatch):
    monkeypatch.chdir(folder / "anna")
    assert named(find_recordings(Path("b.wav"), "folder")) == {"b.wav": "anna"}
    assert named(find_recordings(Path(), "folder"))["a.flac"] == "anna"


def test_a_table_names_files_and_speakers(folder):
    table = folder / "corpus.csv"
    table.write_text("path,speaker,split\nanna/b.wav,A,train\nanna/a.flac,,test\nnowhere.wav,B,test\n")
    for audio in (table, folder):
        found = [(recording.source, recording.speaker_id) for recording in find_recordings(audio, "column")]
        assert found == [("anna/b.wav", "A"), ("anna/a.flac", None), ("nowhere.wav", "B")]
    assert named(find_recordings(table, "none")) == {"b.wav": None, "a.flac": None, "nowhere.wav": None}
    assert named(find_recordings(table, "folder"))["b.wav"] == "anna"


def test_a_folders_table_stays_in_the_folder_unless_the_user_names_it(folder):
    table = folder / "anna" / "corpus.csv"
    table.write_text("path,speaker\n../top.WAV,A\n")
    refused(r"\.\./top\.WAV lies outside the corpus", find_recordings, table.parent, "column")
    assert named(find_recordings(table, "column")) == {"top.WAV": "A"}


def test_a_table_of_segments_and_whole_files_keeps_its_order(folder):
    table = folder / "corpus.csv"
    table.write_text("path,speaker,start,end\nb.wav,A,0,1\na.wav,B,,\nb.wav,B,1,\nc.wav,A,2,3\n")
    found = find_recordings(table, "column")
    assert [recording.source for recording in found] == ["b.wav", "a.wav", "c.wav"]
    assert found[0].turns == (Turn(0, 1, "A"), Turn(1, inf, "B"))
    assert (found[1].speaker_id, found[1].turns) == ("B", None)
    table.write_text("path,speaker,start,end\nb.wav,A,2,1")
    refused("ends at 1 s and starts at 2 s", find_recordings, table, "column")


def test_where_nothing_is(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    refused("no such file or folder", find_recordings, tmp_path / "nowhere", "none")
    refused("holds no sound file", find_recordings, tmp_path / "empty", "none")
    refused("has no columns", find_recordings, folder / "top.WAV", "column")


def test_what_is_no_sound_is_said_of_the_waveform(recognizer, tmp_path):
    for samples, what in ((TONE[:399], "is shorter than one frame, 400 samples"), (TONE * np.nan, "NaN, infinity")):
        refused(rf"array 0: .*{what}.* Leave it out", recognizer.predict, samples)
    (tmp_path / "a.wav").write_bytes(b"not sound at all")
    assert Recording("name", tmp_path / "a.wav").seconds() == 0


def test_callers_give_paths_or_waveforms_one_or_many():
    for one in (TONE, torch.from_numpy(TONE), TONE.astype(np.float64), pd.Series(TONE)):
        (recording,) = recordings_of(one, 7)
        assert (recording.source, recording.speaker_id) == ("array 0", "7")
        np.testing.assert_array_equal(recording.audio, TONE)
    several = recordings_of(["x.wav", TONE, Path("y.wav")], ["a", None, "b"])
    assert [(one.source, one.speaker_id) for one in several] == [("x.wav", "a"), ("array 1", None), ("y.wav", "b")]
    (halved,) = recordings_of(np.repeat(TONE, 2), sample_rate=32_000)
    assert len(halved.audio) == 16_000


@pytest.mark.parametrize("ids", [["1", None, "2"], [1, pd.NA, np.int64(2)], pd.Series([1, None, 2])])
def test_columns_of_a_table_are_recordings_and_speakers(ids):
    audio = pd.Series(["x.wav", "y.wav", "z.wav"])
    for column in (audio, audio.astype("string"), audio.to_numpy(), audio.to_numpy(dtype=str)):
        assert named(recordings_of(column, ids)) == {"x.wav": "1", "y.wav": None, "z.wav": "2"}


def test_speakers_whom_a_diariser_numbered_are_others_in_each_list_of_turns():
    turns = [[(0, 1, "SPEAKER_00"), (1, 2, "anna"), (2, 3, float("nan"))], [(0, 1, "SPEAKER_00"), (1, 2, "anna")]]
    speakers = [[turn.speaker_id for turn in one.turns] for one in recordings_of(["a.wav", "b.wav"], segments=turns)]
    assert speakers == [["a/SPEAKER_00", "anna", None], ["b/SPEAKER_00", "anna"]]
    blank = recordings_of(["x/a.wav", "x/a.flac"], segments=[[(0, 1, "SPEAKER_00 ")], [(0, 1, "SPEAKER_00")]])
    assert [recording.turns[0].speaker_id for recording in blank] == ["x/a.wav/SPEAKER_00", "x/a.flac/SPEAKER_00"]
    (alone,) = recordings_of("a.wav", segments=turns[0])
    assert alone.turns == (Turn(0, 1, "SPEAKER_00"), Turn(1, 2, "anna"), Turn(2, 3, None))


def test_a_recording_without_turns_is_told_and_not_dropped_by_channels(tmp_path):
    paths = [write(tmp_path / name, np.stack([TONE, 0 * TONE], axis=1)) for name in ("a.wav", "b.wav")]
    *_, without = recordings_of(paths, segments=[[(0, 1, "anna", 1), (0, 1, "ben", 2)], []], channel="each")
    assert without.source == str(paths[1])
    assert "has no turns" in str(without.fault)


def test_channels_of_recordings_of_one_name_are_other_speakers_each(tmp_path):
    stereo = np.stack([TONE, 0 * TONE], axis=1)
    paths = [write(tmp_path / name, stereo) for name in ("call.wav", "call.flac", "talk.wav")]
    speakers = [recording.speaker_id for recording in recordings_of(paths, channel="each")]
    assert speakers == [f"{name}/{side}" for name in [*paths[:2], "talk"] for side in ("left", "right")]


def test_waveforms_and_names_of_another_form_are_refused():
    assert recordings_of("x.wav", pd.NA)[0].speaker_id is Recording("x.wav", Path("x.wav"), np.nan).speaker_id is None
    for wrong in (1.5, b"a", object(), True, np.inf):
        refused(r"speaker_ids: .* is no name\. Give text, None where unknown", recordings_of, TONE, wrong)
    for wrong in (TONE[None], np.zeros(500, dtype=np.int16)):
        refused(r"array 1: is of shape .*Give one channel of floats", recordings_of, [TONE, wrong])
    for rate in (0, 1_000_001, np.nan):
        refused("sample_rate: ", recordings_of, TONE, sample_rate=rate)
    refused("audio: is a int", recordings_of, 5)
    refused("2 speakers for 1 recording", recordings_of, [TONE], ["a", "b"])


def test_chunks_are_the_same_from_any_cut_on():
    recordings = [Recording(str(n), np.zeros(16_000 * (n % 5 + 1))) for n in range(30)]
    whole = list(chunks(recordings, 8, 4))
    assert [recording for chunk in whole for recording in chunk] == recordings
    assert all(len(chunk) <= 4 and (sum(r.seconds() for r in chunk) <= 8 or len(chunk) == 1) for chunk in whole)
    assert list(chunks(recordings[sum(map(len, whole[:3])) :], 8, 4)) == whole[3:]
