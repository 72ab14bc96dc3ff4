from __future__ import annotations

import sys
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ser_personal.errors import UserError
from ser_personal.recognition.recordings import (
    BySpeech,
    ByWindows,
    EnergyDetector,
    Segment,
    SileroDetector,
    has_silero,
    join,
    levels,
    make_segmenter,
    split_evenly,
)

RATE = 16_000


def speech_like(seconds: float, seed: int = 0) -> np.ndarray:
    """Noise in syllables of 0.2 s."""
    samples = int(seconds * RATE)
    loudness = 0.2 * np.sin(np.pi * np.arange(samples) / (0.2 * RATE)) ** 2
    return (np.random.default_rng(seed).normal(size=samples) * loudness).astype(np.float32)


def test_speech_is_found_between_pauses_and_noise():
    quiet = np.random.default_rng(1).normal(0, 0.001, 10 * RATE).astype(np.float32)
    quiet[2 * RATE : 4 * RATE] += speech_like(2)
    quiet[6 * RATE : 9 * RATE] += speech_like(3)
    first, second = BySpeech(EnergyDetector(), 5 * RATE)(quiet)
    assert first == pytest.approx((2 * RATE, 4 * RATE), abs=0.15 * RATE)
    assert second == pytest.approx((6 * RATE, 9 * RATE), abs=0.15 * RATE)


@pytest.mark.parametrize(
    "waveform",
    [
        np.zeros(5 * RATE),
        np.full(5 * RATE, 0.5),
        np.random.default_rng(0).normal(0, 0.1, 5 * RATE),
        np.sin(np.arange(5 * RATE) / 10),
        np.zeros(400),
    ],
    ids=["silence", "constant", "noise", "tone", "one frame"],
)
def test_no_speech_in_what_never_changes(waveform):
    assert BySpeech(EnergyDetector(), 2 * RATE)(waveform.astype(np.float32)) == []
    assert BySpeech(EnergyDetector(), 10 * RATE)(waveform.astype(np.float32)) == []


def test_an_utterance_stays_whole():
    waveform = np.pad(speech_like(2), RATE)
    assert BySpeech(EnergyDetector(), 4 * RATE)(waveform) == [Segment(0, 4 * RATE)]


def test_levels_are_of_full_scale():
    np.testing.assert_allclose(levels(np.ones(1000, dtype=np.float32)), 0, atol=1e-4)
    assert len(levels(np.ones(480, dtype=np.float32))) == 1
    assert len(levels(np.ones(479, dtype=np.float32))) == 0


@given(
    st.lists(st.tuples(st.integers(1, 30), st.integers(1, 30)), max_size=12), st.integers(0, 20), st.integers(10, 80)
)
def test_joined_and_split_stretches_hold_all_speech_in_order(lengths, pause, most):
    speech, end = [], 0
    for gap, length in lengths:
        speech.append(Segment(end + gap, end + gap + length))
        end += gap + length
    cut = [piece for segment in join(speech, pause, most) for piece in split_evenly(segment, most)]
    assert all(0 < segment.end - segment.start <= most for segment in cut)
    assert all(one.end <= other.start for one, other in pairwise(cut))
    inside = {sample for segment in cut for sample in range(*segment)}
    spoken = {sample for segment in speech for sample in range(*segment)}
    assert spoken <= inside
    pauses = inside - spoken
    assert all(any(s.end <= sample < s.end + pause for s in speech) for sample in pauses)


def test_windows_cover_all_but_silence():
    waveform = speech_like(10.01)
    waveform[4 * RATE : 6 * RATE] = 0
    starts = [(window.start / RATE, window.end / RATE) for window in ByWindows(2 * RATE)(waveform)]
    assert starts == [(0, 2), (2, 4), (6, 8), (8, 10.01)]
    assert ByWindows(2 * RATE)(waveform[: 3 * RATE]) == [Segment(0, 2 * RATE), Segment(2 * RATE, 3 * RATE)]
    with pytest.raises(UserError, match=r"windows of 0.01 s are shorter than one frame"):
        make_segmenter("windows", max_samples=10, window_seconds=0.01)


def test_without_silero_energy_finds_speech(monkeypatch):
    monkeypatch.setattr("ser_personal.recognition.recordings.has_silero", lambda: False)
    monkeypatch.setattr("ser_personal.recognition.recordings.has_silero", lambda: False)
    segmenter = make_segmenter("speech", max_samples=10, window_seconds=5)
    assert isinstance(segmenter.detector, EnergyDetector)
    with pytest.raises(UserError, match="pip install silero-vad"):
        make_segmenter("silero", max_samples=10, window_seconds=5)


@pytest.mark.skipif(not has_silero(), reason="silero-vad isn't installed (the extra vad)")
def test_silero_hears_no_speech_in_noise():
    assert isinstance(make_segmenter("speech", max_samples=10, window_seconds=5).detector, SileroDetector)
    noise = np.random.default_rng(0).normal(0, 0.05, 2 * RATE).astype(np.float32)
    assert SileroDetector()(noise) == []
    assert "silero_vad" in sys.modules
