"""Augmentation of training audio: speed, reverberation, noise, gain and SpecAugment, drawn by utterance and epoch."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jsonargparse.typing import ClosedUnitInterval, PositiveInt
from numpy.random import Generator
from numpy.typing import NDArray

from ser_personal.audio import (
    SAMPLE_RATE,
    TOO_SHORT,
    WINDOW,
    decode,
    find_sound_files,
    read_header,
    resample,
    resampled_length,
)
from ser_personal.errors import UserError, counted
from ser_personal.files import content_hash

# what each range may reach: dB, dB, and the speed factor
LIMITS = {"snr": (-60, 60), "gain": (-60, 60), "speed": (0.5, 2)}


@dataclass(frozen=True)
class Augmentation:
    """Changes training audio, never its labels, and no other audio; off unless asked for (ours).

    In this order: speed, reverberation, noise, gain, SpecAugment, each where its folder or range is given, and drawn by
    itself. Draws depend on `data.seed`, the epoch and the utterance alone, so that resumed training and any number of
    workers and devices get the same.

    SpecAugment (Park et al. 2019) masks time and frequency without warping time, on the short-time Fourier transform,
    which is inverted to a waveform, so that it works with any encoder. HuBERT's mask embedding isn't used.

    Args:
        noise: a folder of recordings, one of which is added to an utterance, repeated where it is shorter.
        snr: signal-to-noise ratio over the utterance, lowest and highest, dB.
        reverberation: a folder of impulse responses, one of which an utterance is convolved with; it keeps its length
            and its level, and stays aligned by the response's peak.
        gain: lowest and highest, dB; none if None. Undone by encoders that normalise waveforms.
        speed: lowest and highest factor, .5 to 2, which changes pitch, too; none if None. Both are cues of arousal, and
            labels stay as they are.
        time_mask: width of a mask in time, at most, as a share of the utterance; none if 0.
        frequency_mask: width of a mask in frequency, at most, as a share of the mel scale up to 8 kHz; none if 0.
        masks: number of masks of each kind.
        prob: probability of each of them.
    """

    noise: str | None = None
    snr: tuple[float, float] = (5.0, 20.0)
    reverberation: str | None = None
    gain: tuple[float, float] | None = None
    speed: tuple[float, float] | None = None
    time_mask: ClosedUnitInterval = 0.0
    frequency_mask: ClosedUnitInterval = 0.0
    masks: PositiveInt = 2
    prob: ClosedUnitInterval = 0.5

    def __post_init__(self) -> None:
        for name, (least, most) in LIMITS.items():
            ends = getattr(self, name)
            if ends is not None and not least <= ends[0] <= ends[1] <= most:
                remedy = f"Give two numbers from {least} to {most}, the lower one first"
                raise UserError(f"{ends} is no such range", where=f"augmentation.{name}", remedy=remedy)
        if not any((self.noise, self.reverberation, self.gain, self.speed, self.time_mask, self.frequency_mask)):
            remedy = "Give a folder, such as --data.augmentation.noise FOLDER, a range or a mask, or leave it out"
            raise UserError("changes nothing", where="--data.augmentation", remedy=remedy)

    @cached_property
    def sounds(self) -> dict[str, dict[Path, int]]:
        """Files of both folders and their samples at 16 kHz; reading them finds a folder that can't be used."""
        return {"noise": _sounds(self.noise), "reverberation": _sounds(self.reverberation)}

    def settings(self) -> dict[str, Any]:
        """What the audio depends on: arguments as JSON has them, folders by what is in them."""
        arguments: dict[str, Any] = json.loads(json.dumps(asdict(self), default=str))
        for name, sounds in self.sounds.items():
            if sounds:
                folder = getattr(self, name)
                named = (f"{path.relative_to(folder).as_posix()} {length}" for path, length in sounds.items())
                arguments[name] = f"{counted(len(sounds), 'file')}, {content_hash(*named)[:12]}"
        return arguments

    def longest(self, num_samples: int) -> int:
        """Count the samples of an utterance at the lowest speed."""
        return resampled_length(num_samples, min(SAMPLE_RATE, _rate(self.speed[0]))) if self.speed else num_samples

    def __call__(self, waveform: NDArray[np.float32], rng: Generator) -> NDArray[np.float32]:
        """Augment a waveform (samples,) at 16 kHz; speed alone changes its length."""
        if self.speed and rng.random() < self.prob:
            # at least one frame is left
            waveform = resample(waveform, min(_rate(rng.uniform(*self.speed)), len(waveform) * SAMPLE_RATE // WINDOW))
        if self.reverberation and rng.random() < self.prob:
            path, _ = self._draw("reverberation", rng)
            waveform = reverberate(waveform, decode(path, channel=0))
        if self.noise and rng.random() < self.prob:
            path, length = self._draw("noise", rng)
            start = int(rng.integers(max(0, length - len(waveform)) + 1))
            waveform = add_noise(waveform, decode(path, start, len(waveform), channel=0), rng.uniform(*self.snr))
        if self.gain and rng.random() < self.prob:
            waveform = waveform * np.float32(10 ** (rng.uniform(*self.gain) / 20))
        if (self.time_mask or self.frequency_mask) and rng.random() < self.prob:
            waveform = self._masked(waveform, rng)
        return waveform

    def _draw(self, folder: str, rng: Generator) -> tuple[Path, int]:
        sounds = list(self.sounds[folder].items())
        return sounds[rng.integers(len(sounds))]

    def _masked(self, waveform: NDArray[np.float32], rng: Generator) -> NDArray[np.float32]:
        window = torch.hann_window(WINDOW)
        samples = torch.from_numpy(waveform)
        spectrum = torch.stft(samples, WINDOW, WINDOW // 4, window=window, pad_mode="constant", return_complex=True)
        mels = np.log1p(np.linspace(0, SAMPLE_RATE / 2, len(spectrum)) / 700)
        times = np.linspace(0, 1, spectrum.shape[1])
        for _ in range(self.masks):
            spectrum[:, torch.from_numpy(_span(times, self.time_mask, rng))] = 0
            spectrum[torch.from_numpy(_span(mels / mels[-1], self.frequency_mask, rng))] = 0
        return torch.istft(spectrum, WINDOW, WINDOW // 4, window=window, length=len(waveform)).numpy()


def add_noise(speech: NDArray[np.float32], noise: NDArray[np.float32], snr: float) -> NDArray[np.float32]:
    """Add noise (samples,), repeated to the length of the speech (samples,), at an SNR in dB.

    Silent speech or noise leaves the speech unchanged.
    """
    noise = np.resize(noise, len(speech))
    ratio = _energy(speech) / (_energy(noise) or np.inf)
    return speech + noise * np.float32(np.sqrt(ratio / 10 ** (snr / 10)))


def reverberate(speech: NDArray[np.float32], response: NDArray[np.float32]) -> NDArray[np.float32]:
    """Convolve speech (samples,) with an impulse response (taps,), from its peak on, to the length and energy it had.

    Not by torchaudio's `fftconvolve`, whose rounding depends on the number of threads, and so on that of workers.
    """
    from scipy.signal import fftconvolve

    peak = int(np.abs(response).argmax())
    convolved: NDArray[np.float32] = fftconvolve(speech, response)[peak : peak + len(speech)]
    return convolved * np.float32(np.sqrt(_energy(speech) / (_energy(convolved) or np.inf)))


def _sounds(folder: str | None) -> dict[Path, int]:
    if folder is None:
        return {}
    found = {path: read_header(path).num_samples for path in find_sound_files(Path(folder))}
    for path, length in found.items():
        if length < WINDOW:
            raise UserError(TOO_SHORT, where=path, remedy="Take it out of the folder")
    return found


def _rate(speed: float) -> int:
    """The rate, Hz, from which resampling gives this speed; rounded to thousandths, which keeps the filter short."""
    return round(speed * 1000) * SAMPLE_RATE // 1000


def _energy(waveform: NDArray[np.float32]) -> float:
    return float(np.square(waveform, dtype=np.float64).sum())


def _span(positions: NDArray[np.float64], widest: float, rng: Generator) -> NDArray[np.bool_]:
    """Mark a random span, of width 0 to `widest`, of positions (n,) from 0 to 1."""
    width = rng.uniform(0, widest)
    start = rng.uniform(0, 1 - width)
    return (positions >= start) & (positions < start + width)
