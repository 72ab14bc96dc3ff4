"""A source-filter synthesiser: how an utterance is delivered -> its waveform.

Glottal pulses and white noise are shaped frame by frame in the short-time spectrum, by formants, tilt and friction
bands, and overlap-added. NumPy alone; two hundred seconds of speech take about one second of one core.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from ser_personal.audio import SAMPLE_RATE
from ser_personal.corpus.synthetic_language import PAUSE, SEGMENTS, lexicon

if TYPE_CHECKING:
    from typing import TypeAlias

    from numpy.random import Generator
    from numpy.typing import NDArray

    Signal: TypeAlias = NDArray[np.floating]
    Spectra: TypeAlias = NDArray[np.complexfloating]

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
    """How one utterance is spoken.

    Attributes:
        pitch: mean fundamental frequency, Hz.
        pitch_range: deviation of the accents, semitones.
        level: level of a vowel, dB relative to full scale.
        tilt: slope of the glottal source's spectrum, dB an octave.
        rate: speed, 1 as in the inventory's durations.
        formants: factor on every formant; a short vocal tract lies above 1.
        breathiness: aspiration noise in a vowel, dB relative to its voice.
        background: noise of the recording, dB relative to full scale.
        words: (words,), how often each word of the lexicon is said; sums to 1.
    """

    pitch: float
    pitch_range: float
    level: float
    tilt: float
    rate: float
    formants: float
    breathiness: float
    background: float
    words: NDArray[np.float64]


@dataclass(frozen=True)
class _Articulation:
    """Targets that move through an utterance, each `(frames,)` or `(frames, ...)`."""

    formants: Signal
    voicing: Signal
    friction: Signal
    friction_hz: Signal
    accent: Signal


def speak(delivery: Delivery, num_samples: int, rng: Generator) -> NDArray[np.float32]:
    """Say random words of the language for as long as asked.

    Args:
        delivery: the way of speaking.
        num_samples: length, samples at 16 kHz.
        rng: chooses words, durations, accents and noise.

    Returns:
        (samples,), full scale at 1.
    """
    frames = num_samples // STEP + 4
    articulation = _articulate(frames, delivery, rng)
    declination = np.linspace(1, -1, frames, dtype=np.float32)
    semitones = delivery.pitch_range * articulation.accent + declination
    source = _spectra(_glottal_pulses(delivery.pitch * 2 ** (semitones / 12), rng))
    noise = _spectra(rng.standard_normal((frames + 3) * STEP, dtype=np.float32))

    level = _amplitude(delivery.level + 2 * articulation.accent)
    vocal_tract = _vocal_tract(articulation.formants, delivery) * (level * articulation.voicing)[:, None]
    friction = _friction(articulation.friction_hz) * (level * articulation.friction)[:, None]
    aspiration = _amplitude(delivery.breathiness)
    spectra = source * vocal_tract + noise * (aspiration * vocal_tract + friction + _amplitude(delivery.background))
    return _overlap_add(spectra)[3 * STEP :][:num_samples].astype(np.float32)


def _amplitude(decibels: float | Signal) -> Signal:
    return np.float32(10) ** (np.asarray(decibels, dtype=np.float32) / 20)


def _articulate(frames: int, delivery: Delivery, rng: Generator) -> _Articulation:
    # More than enough: no word at the highest rate is as short as four frames.
    words = rng.choice(len(lexicon()), size=frames // 4 + 1, p=delivery.words)
    names, accents = [PAUSE], [0.0]
    for index in words:
        word = lexicon()[index]
        stress = rng.standard_normal(word.syllables[-1] + 1)
        names += word.segments
        accents += [stress[syllable] for syllable in word.syllables]
        if rng.random() < 0.15:
            names.append(PAUSE)
            accents.append(0.0)
    targets = np.array([SEGMENTS[name] for name in names], dtype=np.float32)
    lengths = targets[:, 6] * np.exp(0.2 * rng.standard_normal(len(names))) / delivery.rate
    ends = np.round(np.cumsum(lengths) * SAMPLE_RATE / STEP).astype(int)
    segment = np.searchsorted(ends, np.arange(frames), side="right")
    moving = _glide(targets[segment, :6], COARTICULATION)
    return _Articulation(
        formants=moving[:, :3],
        voicing=moving[:, 3],
        friction=moving[:, 4],
        friction_hz=moving[:, 5],
        accent=_glide(np.array(accents, dtype=np.float32)[segment, None], INTONATION)[:, 0],
    )


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
    response: Spectra = squared.astype(np.complex64) / (squared - FREQUENCIES**2 + damping)
    return response


def _friction(centre: Signal) -> Signal:
    """Amplitude of the friction bands, `(frames,)` in Hz -> `(frames, bins)`, of unit mean power."""
    band = 1 / (1 + ((FREQUENCIES - centre[:, None]) / FRICTION_WIDTH) ** 2)
    unit: Signal = band / np.sqrt(np.mean(band**2, axis=1, keepdims=True))
    return unit


def _spectra(signal: Signal) -> Spectra:
    spectra: Spectra = np.fft.rfft(sliding_window_view(signal, FRAME)[::STEP] * TAPER)
    return spectra


def _overlap_add(spectra: Spectra) -> Signal:
    parts = (np.fft.irfft(spectra) * TAPER).reshape(len(spectra), FRAME // STEP, STEP) / 2
    blocks = np.zeros((len(spectra) + FRAME // STEP - 1, STEP), dtype=np.float32)
    for shift in range(FRAME // STEP):
        blocks[shift : shift + len(spectra)] += parts[:, shift]
    return blocks.ravel()
