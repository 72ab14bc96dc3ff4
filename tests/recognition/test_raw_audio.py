from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import soundfile

from ser_personal import EmotionRecognizer
from ser_personal.audio import decode
from ser_personal.errors import UserError
from ser_personal.recognition.segmenters import BySpeech, ByWindows, energy_speech

PAUSE = np.zeros(16_000, dtype=np.float32)


@pytest.fixture
def blocks(monkeypatch):
    """Have recordings of more than a second read in blocks of some seconds, or in one piece."""

    def of(seconds):
        monkeypatch.setattr("ser_personal.recognition.raw.CHUNK_SECONDS", 1.0 if seconds else 1e9)
        monkeypatch.setattr("ser_personal.recognition.raw.BLOCK", int((seconds or 1) * 16_000))
        monkeypatch.setattr("ser_personal.audio.PIECE", 20_000)

    return of


@pytest.fixture
def long(recordings, tmp_path):
    """Speech with a second of nothing after each utterance, in two channels at 44.1 kHz."""
    parts = [decode(path) for path in recordings[:8]]
    speech = np.concatenate([piece for part in parts for piece in (part, PAUSE)])
    places = np.linspace(0, len(speech) - 1, int(len(speech) * 44_100 / 16_000))
    speech = np.interp(places, np.arange(len(speech)), speech)
    soundfile.write(tmp_path / "long.wav", np.stack([speech, speech / 2], 1), 44_100, subtype="FLOAT")
    return tmp_path / "long.wav"


@pytest.mark.parametrize("cut", ["windows", "energy", "turns"])
def test_blocks_give_what_the_whole_gives(bundle, long, blocks, cut):
    segmenter = ByWindows(24_000, 10_000) if cut == "windows" else BySpeech(energy_speech, 40_000)
    recognizer = EmotionRecognizer(bundle, segmenter=segmenter, device="cpu")
    turns = [(0, 9, "anna"), (2, 4.5, "ben"), (4, 4.2, "anna"), (9.5, 11, "ben"), (9, 14, "anna")]
    options = {"segments": turns} if cut == "turns" else {"speaker_ids": "anna"}
    frames = []
    for size in (None, 3.1):
        blocks(size)
        frames += [recognizer.predict(long, **options), recognizer.predict(decode(long), **options)]
    assert len(frames[0]) > 4
    for frame in frames[1:]:
        same = np.abs(frame[["start", "end"]] - frames[0][["start", "end"]]).max(axis=1)
        # by the level of noise of a block, a pause ends a frame of 10 ms earlier or later
        assert same.max() < (0.05 if cut == "energy" else 1e-4)
        own, expected = (one.drop(columns="file")[same < 1e-4] for one in (frame, frames[0]))
        columns = [name for name in own if not (cut == "energy" and name.endswith("calibrated"))]
        pd.testing.assert_frame_equal(own[columns], expected[columns], atol=1e-4)


def test_a_long_recording_is_refused_as_a_short_one_is(recognizer, long, blocks, tmp_path):
    blocks(3)
    samples, rate = soundfile.read(long, dtype="float32")
    late = np.append(samples[:-100], np.full((100, 2), np.nan, dtype=np.float32), axis=0)
    noise = np.random.default_rng(0).normal(0, 0.1, samples.shape).astype(np.float32)
    for name, sound, what in (
        ("nan", late, "holds NaN, infinity"),
        ("silent", samples * 0, "is silent from beginning to end"),
        ("cancelled", samples * [1, -2], r"cancel one another when mixed .--channel left takes one"),
        ("noise", noise, "no speech was found in it"),
    ):
        soundfile.write(tmp_path / f"{name}.wav", sound, rate, subtype="FLOAT")
        with pytest.raises(UserError, match=rf"{name}.wav: .*{what}"):
            recognizer.predict(tmp_path / f"{name}.wav", "anna")
    (tmp_path / "broken.wav").write_bytes(long.read_bytes()[:-4])
    with pytest.raises(UserError, match=r"broken\.wav: is truncated"):
        recognizer.predict(tmp_path / "broken.wav", "anna")
    for turn, what in (((3, 2), "isn't valid"), ((3, 99), "is past the end")):
        with pytest.raises(UserError, match=f"long.wav: turn of a .*{what}"):
            recognizer.predict(long, segments=[(0, 1, "a"), (*turn, "a")])
    with pytest.raises(UserError, match="holds NaN, infinity"):
        recognizer.predict(np.concatenate([decode(long), PAUSE * np.nan]), "anna")
    assert recognizer.predict(long, segments=[(0, 1, "a"), (1.7, 2.4, "a")])["end"].tolist() == [1.0]
