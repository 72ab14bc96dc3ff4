"""A source-filter synthesiser: how an utterance is delivered -> its waveform.

Glottal pulses and white noise are shaped frame by frame in the short-time spectrum, by formants, tilt and friction
bands, and overlap-added. NumPy alone; two hundred seconds of speech take about one second of one core.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.random import Generator
from numpy.typing import NDArray

from ser_personal.audio import SAMPLE_RATE

Signal: TypeAlias = NDArray[np.floating]
Spectra: TypeAlias = NDArray[np.complexfloating]

SILENCE = 0.0  # linear amplitude, for a source that is off


class Phone(NamedTuple):
    """The articulatory target of one stretch of speech."""

    f1: float  # formants of the neutral vocal tract, Hz
    f2: float
    f3: float
    voicing: float  # amplitude of the glottal source, 1 in a vowel
    friction: float = SILENCE  # amplitude of the friction noise, relative to a vowel's 1
    friction_hz: float = 4000  # centre of its band
    seconds: float = 0.07  # mean duration


VOWELS = {
    "i": Phone(280, 2250, 2900, 1.0, seconds=0.09),
    "e": Phone(400, 2050, 2600, 1.0, seconds=0.10),
    "E": Phone(560, 1780, 2500, 1.0, seconds=0.10),
    "a": Phone(760, 1300, 2500, 1.0, seconds=0.12),
    "o": Phone(450, 850, 2450, 1.0, seconds=0.11),
    "u": Phone(310, 800, 2250, 1.0, seconds=0.09),
    "y": Phone(280, 1750, 2150, 1.0, seconds=0.09),
    "@": Phone(500, 1450, 2500, 0.8, seconds=0.06),
}
CONSONANTS = {
    "m": Phone(260, 1050, 2200, 0.35),
    "n": Phone(270, 1500, 2450, 0.35),
    "l": Phone(360, 1150, 2700, 0.55),
    "r": Phone(420, 1250, 1650, 0.50),
    "j": Phone(270, 2200, 2950, 0.55, seconds=0.05),
    "w": Phone(300, 700, 2200, 0.55, seconds=0.05),
    "v": Phone(300, 1300, 2400, 0.30, 0.05, 5500),
    "z": Phone(300, 1600, 2500, 0.25, 0.12, 6000),
    "s": Phone(300, 1600, 2500, SILENCE, 0.25, 6000, 0.10),
    "S": Phone(300, 1800, 2500, SILENCE, 0.30, 3300, 0.10),
    "f": Phone(300, 1200, 2400, SILENCE, 0.08, 5500, 0.09),
    "x": Phone(400, 1400, 2400, SILENCE, 0.18, 1500, 0.08),
}
# A stop is a closure and a burst; the voiced ones keep a voice bar while they are closed.
STOPS = {
    "p": Phone(300, 900, 2300, SILENCE, 0.15, 1000, 0.025),
    "t": Phone(300, 1700, 2600, SILENCE, 0.25, 4500, 0.025),
    "k": Phone(300, 1900, 2300, SILENCE, 0.22, 2200, 0.03),
    "b": Phone(300, 900, 2300, 0.30, 0.08, 1000, 0.02),
    "d": Phone(300, 1700, 2600, 0.30, 0.12, 4500, 0.02),
    "g": Phone(300, 1900, 2300, 0.30, 0.12, 2200, 0.02),
}
PAUSE = "pause"
CLOSURES = {"closed": Phone(300, 1500, 2500, SILENCE, seconds=0.05), "voice bar": Phone(220, 1200, 2400, 0.12)}
SEGMENTS = {**VOWELS, **CONSONANTS, **STOPS, **CLOSURES, PAUSE: Phone(450, 1500, 2500, SILENCE, seconds=0.2)}

WORDS = 150
OWN_ORDER = 2.5  # standard deviation of a word's log rank between speakers
_ZIPF = (np.arange(WORDS) + 1.0) ** -1.2 / np.sum((np.arange(WORDS) + 1.0) ** -1.2)


def _consonant(among: list[str], rng: Generator) -> list[str]:
    drawn = str(rng.choice(among))
    if drawn not in STOPS:
        return [drawn]
    return ["voice bar" if STOPS[drawn].voicing else "closed", drawn]


def _syllable(rng: Generator) -> list[str]:
    segments = [*_consonant([*CONSONANTS, *STOPS], rng), str(rng.choice(list(VOWELS)))]
    return [*segments, *_consonant(["n", "s", "l", "r", "t", "k"], rng)] if rng.random() < 0.3 else segments


@cache
def lexicon() -> list[list[list[str]]]:
    """Make the words of the language, commonest first: one to three syllables of consonant, vowel and perhaps a coda.

    A syllable is its segments, by their names in `SEGMENTS`. The words are the same in every corpus, whatever its seed.
    """
    rng = np.random.default_rng(0)
    return [[_syllable(rng) for _ in range(rng.integers(1, 4))] for _ in range(WORDS)]


def idiolect(rng: Generator) -> NDArray[np.float64]:
    """Draw how often a speaker says each word of the lexicon, `(words,)`.

    Zipf's law over an order of the words that mixes the language's with the speaker's own.
    """
    order = np.argsort(np.log(np.arange(1, WORDS + 1)) + OWN_ORDER * rng.standard_normal(WORDS))
    share = np.empty(WORDS)
    share[order] = _ZIPF
    return share


FRAME = 512
STEP = FRAME // 4
FREQUENCIES = np.fft.rfftfreq(FRAME, 1 / SAMPLE_RATE).astype(np.float32)
# Taken once before the filter and once after: its square is a Hann window, which adds up to 2 at this step.
TAPER = np.sqrt(0.5 - 0.5 * np.cos(2 * np.pi * np.arange(FRAME) / FRAME)).astype(np.float32)
BANDWIDTHS = (70, 100, 150)  # of the moving formants, Hz
HIGHER_FORMANTS = (3500, 4500, 5500, 6500, 7500)  # a neutral tube's, Hz
FRICTION_WIDTH = 900  # Hz
COARTICULATION = 7  # frames (56 ms) over which a target glides into the next
INTONATION = 25  # frames (200 ms) over which an accent rises and falls


@dataclass(frozen=True)
class Delivery:
    """How one utterance is spoken."""

    pitch: float  # mean fundamental frequency, Hz
    pitch_range: float  # standard deviation of the accents, semitones
    level: float  # of a vowel, dB relative to full scale
    tilt: float  # slope of the glottal source's spectrum, dB an octave
    rate: float  # speed, 1 as in the inventory's durations
    formants: float  # factor on every formant, above 1 for a short vocal tract
    breathiness: float  # aspiration noise in a vowel, dB relative to its voice
    background: float  # noise of the recording, dB relative to full scale
    words: NDArray[np.float64]  # (words,), how often each word of the lexicon is said; sums to 1


def speak(delivery: Delivery, num_samples: int, rng: Generator) -> NDArray[np.float32]:
    """Say random words of the language, (samples,) at 16 kHz, full scale at 1."""
    frames = num_samples // STEP + 4
    moving, accent = _articulate(frames, delivery, rng)
    voicing, friction_amplitude, friction_hz = moving[:, 3:].T
    declination = np.linspace(1, -1, frames, dtype=np.float32)
    semitones = delivery.pitch_range * accent + declination
    source = _spectra(_glottal_pulses(delivery.pitch * 2 ** (semitones / 12), rng))
    noise = _spectra(rng.standard_normal((frames + 3) * STEP, dtype=np.float32))

    level = _amplitude(delivery.level + 2 * accent)
    vocal_tract = _vocal_tract(moving[:, :3], delivery) * (level * voicing)[:, None]
    friction = _friction(friction_hz) * (level * friction_amplitude)[:, None]
    aspiration = _amplitude(delivery.breathiness)
    spectra = source * vocal_tract + noise * (aspiration * vocal_tract + friction + _amplitude(delivery.background))
    return _overlap_add(spectra)[3 * STEP :][:num_samples].astype(np.float32)


def _amplitude(decibels: float | Signal) -> Signal:
    return np.float32(10) ** (np.asarray(decibels, dtype=np.float32) / 20)


def _articulate(frames: int, delivery: Delivery, rng: Generator) -> tuple[Signal, Signal]:
    """Choose words, -> formants, voicing and friction (frames, 6) in `Phone`'s order, and accents (frames,)."""
    # More than enough: no word at the highest rate is as short as four frames.
    words = rng.choice(len(lexicon()), size=frames // 4 + 1, p=delivery.words)
    names, accents = [PAUSE], [0.0]
    for index in words:
        word = lexicon()[index]
        for syllable, stress in zip(word, rng.standard_normal(len(word)), strict=True):
            names += syllable
            accents += [stress] * len(syllable)
        if rng.random() < 0.15:
            names.append(PAUSE)
            accents.append(0.0)
    targets = np.array([SEGMENTS[name] for name in names], dtype=np.float32)
    lengths = targets[:, 6] * np.exp(0.2 * rng.standard_normal(len(names))) / delivery.rate
    ends = np.round(np.cumsum(lengths) * SAMPLE_RATE / STEP).astype(int)
    segment = np.searchsorted(ends, np.arange(frames), side="right")
    accent = _glide(np.array(accents, dtype=np.float32)[segment, None], INTONATION)[:, 0]
    return _glide(targets[segment, :6], COARTICULATION), accent


def _glide(targets: Signal, width: int) -> Signal:
    """Smooth each column of `(frames, columns)` by a Hann window of `width` frames."""
    window = np.hanning(width + 2)[1:-1].astype(np.float32)
    padded = np.pad(targets, ((width // 2, width // 2), (0, 0)), mode="edge")
    smooth: Signal = sliding_window_view(padded, width, axis=0) @ (window / window.sum())
    return smooth


def _glottal_pulses(pitch: Signal, rng: Generator) -> Signal:
    """Place pulses of unit mean power, `(frames,)` in Hz -> `(samples,)`, between samples where they fall between."""
    frames = len(pitch)
    jittered = pitch * np.exp(0.01 * rng.standard_normal(frames))
    samples = np.arange((frames + 3) * STEP)
    period = SAMPLE_RATE / np.interp(samples, np.arange(frames) * STEP + FRAME // 2, jittered)
    phase = np.cumsum(1 / period)
    last = np.flatnonzero(np.diff(np.floor(phase)))
    late = (np.floor(phase[last + 1]) - phase[last]) * period[last]
    height = np.sqrt(period[last])
    pulses = np.zeros(len(samples), dtype=np.float32)
    pulses[last] = height * (1 - late)
    pulses[last + 1] += height * late
    return pulses


def _vocal_tract(formants: Signal, delivery: Delivery) -> Spectra:
    """Frequency response of formants and tilt, `(frames, 3)` in Hz -> `(frames, bins)`, of unit mean power."""
    tilt = (np.maximum(FREQUENCIES, 100) / 1000) ** np.float32(delivery.tilt / (20 * np.log10(2)))
    tilt[0] = 0
    response: Spectra = np.broadcast_to(tilt.astype(np.complex64), (len(formants), len(FREQUENCIES)))
    for higher in HIGHER_FORMANTS:
        response = response * _resonance(np.float32(higher * delivery.formants), higher / 15)[None]
    for column, bandwidth in zip(formants.T, BANDWIDTHS, strict=True):
        response = response * _resonance(column[:, None] * delivery.formants, bandwidth)
    power = np.mean(response.real**2 + response.imag**2, axis=1, keepdims=True)
    shaped: Spectra = response / np.sqrt(power)
    return shaped


def _resonance(centre: Signal | np.float32, bandwidth: float) -> Spectra:
    squared = np.square(centre)
    damping = np.complex64(1j * bandwidth) * FREQUENCIES
    return squared.astype(np.complex64) / (squared - FREQUENCIES**2 + damping)


def _friction(centre: Signal) -> Signal:
    """Amplitude of the friction bands, `(frames,)` in Hz -> `(frames, bins)`, of unit mean power."""
    band = 1 / (1 + ((FREQUENCIES - centre[:, None]) / FRICTION_WIDTH) ** 2)
    unit: Signal = band / np.sqrt(np.mean(band**2, axis=1, keepdims=True))
    return unit


def _spectra(signal: Signal) -> Spectra:
    return np.fft.rfft(sliding_window_view(signal, FRAME)[::STEP] * TAPER)


def _overlap_add(spectra: Spectra) -> Signal:
    parts = (np.fft.irfft(spectra) * TAPER).reshape(len(spectra), FRAME // STEP, STEP) / 2
    blocks = np.zeros((len(spectra) + FRAME // STEP - 1, STEP), dtype=np.float32)
    for shift in range(FRAME // STEP):
        blocks[shift : shift + len(spectra)] += parts[:, shift]
    return blocks.ravel()
