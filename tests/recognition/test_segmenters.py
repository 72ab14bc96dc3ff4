from functools import partial
from itertools import pairwise

import numpy as np
import pytest
from garbage import refused
from hypothesis import given
from hypothesis import strategies as st

from ser_personal.audio import WINDOW
from ser_personal.recognition import segmenters
from ser_personal.recognition.segmenters import BySpeech, ByWindows, Segment, energy_speech, make_segmenter

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
    first, second = BySpeech(energy_speech, 5 * RATE)(quiet)
    assert first == pytest.approx((2 * RATE, 4 * RATE), abs=0.15 * RATE)
    assert second == pytest.approx((6 * RATE, 9 * RATE), abs=0.15 * RATE)
    assert BySpeech(energy_speech, 10 * RATE)(quiet) == [Segment(0, 10 * RATE)]


def test_no_speech_in_what_never_changes():
    noise, tone = np.random.default_rng(0).normal(0, 0.1, 5 * RATE), np.sin(np.arange(5 * RATE) / 10)
    for waveform in (np.zeros(5 * RATE), np.full(5 * RATE, 0.5), noise, tone, np.zeros(400)):
        for max_samples in (2 * RATE, 10 * RATE):
            assert BySpeech(energy_speech, max_samples)(waveform.astype(np.float32)) == []


@given(st.lists(st.tuples(*[st.integers(1, 30)] * 2), max_size=12), st.integers(0, 20), st.integers(10, 80))
def test_joined_and_split_stretches_hold_all_speech_in_order(lengths, pause, most):
    speech, end = [], 0
    for gap, length in lengths:
        speech.append(Segment(end + gap, end + gap + length))
        end += gap + length
    joined = segmenters.join(speech, pause, most)
    cut = [piece for segment in joined for piece in segmenters.split_evenly(segment, most)]
    assert all(0 < segment.end - segment.start <= most for segment in cut)
    assert all(one.end <= other.start for one, other in pairwise(cut))
    inside = {sample for segment in cut for sample in range(*segment)}
    spoken = {sample for segment in speech for sample in range(*segment)}
    assert spoken <= inside
    assert all(any(s.end <= sample < s.end + pause for s in speech) for sample in inside - spoken)


def test_windows_cover_all_but_silence():
    waveform = speech_like(10.01)
    waveform[4 * RATE : 6 * RATE] = 0
    windows = [(window.start / RATE, window.end / RATE) for window in ByWindows(2 * RATE, 2 * RATE)(waveform)]
    assert windows == [(0, 2), (2, 4), (6, 8), (8, 10.01)]
    make = partial(make_segmenter, max_samples=10)
    refused("--window_seconds: 0.01 is out of .* number of at least 0.025", make, "windows", window_seconds=0.01)
    refused("--hop_seconds: nan is out of range", make, "windows", window_seconds=4, hop_seconds=np.nan)


@given(st.integers(0, 50), st.integers(1, 500), st.integers(40, 100), st.integers(40, 150))
def test_windows_begin_at_a_steady_rate_and_each_says_something_new(first, length, samples, hop):
    """In units of ten samples, for windows are a frame at least."""
    stretch = Segment(first * 10, (first + length) * 10)
    windows = ByWindows(samples * 10, hop * 10).within(stretch)
    assert [window.start for window in windows] == [stretch.start + n * hop * 10 for n in range(len(windows))]
    assert all(window.samples <= samples * 10 or window is windows[-1] for window in windows)
    assert all(one.end < other.end for one, other in pairwise(windows))
    assert stretch.end - windows[-1].end <= max(0, hop - samples) * 10 + WINDOW
    if hop <= samples:
        assert windows[-1].end == stretch.end


def test_without_silero_energy_finds_speech(monkeypatch):
    monkeypatch.setattr("ser_personal.recognition.segmenters.has_silero", lambda: False)
    assert make_segmenter("speech", max_samples=10, window_seconds=5).find_speech is energy_speech
    refused("pip install silero-vad", make_segmenter, "silero", max_samples=10, window_seconds=5)


@pytest.mark.skipif(not segmenters.has_silero(), reason="silero-vad isn't installed (the extra vad)")
def test_silero_finds_no_speech_in_noise():
    assert make_segmenter("speech", max_samples=10, window_seconds=5).find_speech is segmenters.silero_speech
    assert segmenters.silero_speech(np.random.default_rng(0).normal(0, 0.05, 2 * RATE).astype(np.float32)) == []
