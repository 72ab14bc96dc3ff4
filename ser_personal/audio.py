"""Sound files -> mono 16 kHz waveforms, and how many frames HuBERT makes of them."""

from __future__ import annotations

import os
import struct
from math import gcd
from typing import TYPE_CHECKING, overload

import numpy as np
import soundfile

from ser_personal.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

SAMPLE_RATE = 16_000
WINDOW = 400
HOP = 320
FRAME_RATE = SAMPLE_RATE // HOP
# formats in which libsndfile lands only near the sample it seeks
INEXACT_SEEKING = ("OGG", "MP3")
# TypeError: raw audio without a header; ValueError: a path that holds a zero byte
DECODING_ERRORS = (soundfile.SoundFileError, OSError, TypeError, ValueError)
# read at once, all channels together: many channels must not take many times the memory of one
BLOCK_VALUES = 4_000_000
RESAMPLED_SECONDS = 60
# how far torchaudio's filter reaches, in the steps that both rates have in common: 6 / .99 and one to round up, at most
FILTER_STEPS = 8
# full scale is 1, and 32,768 in files that hold integers as floats
LOUDEST = 1e6
# what to do about a file that can't be used
BAD_AUDIO = "Write it again, or leave it out of the corpus: `ser check CORPUS --write clean.csv`"
NO_SOUND = f"holds NaN, infinity or samples above {LOUDEST:g}"
# length of a WAV's samples as a stream's writer gives it, who can't know it (sox; ffmpeg's is larger)
STREAMED = 0x7FFFF000


@overload
def num_frames(num_samples: int) -> int: ...
@overload
def num_frames(num_samples: Tensor) -> Tensor: ...
def num_frames(num_samples: int | Tensor) -> int | Tensor:
    """Count HuBERT's frames: a window of 400 samples every 320 samples, none in under 400 samples."""
    frames = (num_samples - WINDOW) // HOP + 1
    return max(0, frames) if isinstance(frames, int) else frames.clamp(min=0)


def library_name(path: Path) -> str | bytes:
    """Write a path as soundfile takes it, which encodes no name that isn't text."""
    name = str(path)
    try:
        name.encode()
    except UnicodeEncodeError:
        return os.fsencode(path)
    return name


def _unreadable(path: Path, error: Exception) -> UserError:
    # libsndfile's or the system's own words, without the path, which the error names anyway
    reason = str(getattr(error, "error_string", getattr(error, "strerror", None) or error)).rstrip(".")
    what = f"can't be decoded ({reason})" if path.exists() else "no such audio file"
    return UserError(what, where=path, remedy=BAD_AUDIO)


def num_samples_of(path: Path) -> int:
    """Read from a file's header how many samples it has once at 16 kHz.

    Raises:
        UserError: the file is missing, truncated or no sound file.
    """
    try:
        _refuse_damaged(path)
        info = soundfile.info(library_name(path))
    except DECODING_ERRORS as error:
        raise _unreadable(path, error) from error
    return resampled_length(info.frames, info.samplerate)


def decode(path: Path, start: int = 0, num_samples: int | None = None) -> NDArray[np.float32]:
    """Decode a file, or a part of it, to mono at 16 kHz.

    A part equals the same part of the whole: a 16 kHz file is read from `start` on where its format seeks exactly; an
    ogg, an mp3 or a file at another rate is decoded whole and then cut.

    Args:
        path: any format that libsndfile reads (wav, flac, ogg, mp3, ...).
        start: first sample, at 16 kHz.
        num_samples: how many samples at 16 kHz; to the end if None.

    Returns:
        (samples,), fewer than `num_samples` where the file ends before.

    Raises:
        UserError: the file is missing or truncated, can't be decoded, or holds what is no sound.
    """
    waveform = _decode(path, start, num_samples)
    if not is_sound(waveform):
        raise UserError(NO_SOUND, where=path, remedy=BAD_AUDIO)
    return waveform


def is_sound(waveform: NDArray[np.float32]) -> bool:
    """Tell whether samples (samples,) are finite, and in any range that sound comes in."""
    # NaN compares as neither
    return bool(waveform.max(initial=0) <= LOUDEST and waveform.min(initial=0) >= -LOUDEST)


def is_truncated(path: Path) -> bool:
    """Tell whether a WAV's header announces more samples than the file holds; libsndfile calls it a shorter WAV."""
    with path.open("rb") as file:
        if file.read(4) != b"RIFF":
            return False
        file.seek(12)
        while len(chunk := file.read(8)) == 8:
            name, size = struct.unpack("<4sI", chunk)
            if name == b"data":
                return bool(size < STREAMED and file.tell() + size > path.stat().st_size)
            file.seek(size + size % 2, os.SEEK_CUR)
    return False


def _refuse_damaged(path: Path) -> None:
    # opening a pipe would wait for its writer for ever
    if path.exists() and not path.is_file():
        raise UserError("isn't a file", where=path, remedy=BAD_AUDIO)
    if is_truncated(path):
        what = "is truncated: its header announces more than it holds"
        raise UserError(what, where=path, remedy=BAD_AUDIO)


def _decode(path: Path, start: int, num_samples: int | None) -> NDArray[np.float32]:
    try:
        _refuse_damaged(path)
        with soundfile.SoundFile(library_name(path)) as file:
            if file.samplerate == SAMPLE_RATE and file.format not in INEXACT_SEEKING:
                file.seek(min(start, file.frames))
                return _read_mono(file, num_samples)
            whole = _read_mono(file)
            rate = file.samplerate
    except DECODING_ERRORS as error:
        raise _unreadable(path, error) from error
    return resample(whole, rate)[start : None if num_samples is None else start + num_samples]


def _read_mono(file: soundfile.SoundFile, num_samples: int | None = None) -> NDArray[np.float32]:
    left = file.frames if num_samples is None else num_samples
    blocks = []
    while left > 0:
        block = file.read(min(left, max(1, BLOCK_VALUES // file.channels)), dtype="float32", always_2d=True)
        if len(block) == 0:
            break
        blocks.append(_mono(block))
        left -= len(block)
    if len(blocks) == 1:
        return blocks[0]
    return np.concatenate(blocks) if blocks else np.zeros(0, dtype=np.float32)


def _mono(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    return samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1, dtype=np.float32)


def resample(waveform: NDArray[np.float32], rate: int) -> NDArray[np.float32]:
    """Bring a waveform (samples,) at another rate, Hz, to 16 kHz."""
    # Imported here because only files at other rates need it, and label files can be checked without torch.
    import torch
    import torchaudio

    # In blocks, for torchaudio takes many times the memory of what it is given; as one piece it gives the same.
    common = gcd(rate, SAMPLE_RATE)
    step, step_after = rate // common, SAMPLE_RATE // common
    block, context = RESAMPLED_SECONDS * rate, FILTER_STEPS * step
    pieces = [np.zeros(0, dtype=np.float32)]
    for start in range(0, len(waveform), block):
        first = max(0, start - context)
        # torchaudio rounds the length in float32, which would cost some files their last sample.
        piece = np.pad(waveform[first : start + block + context], (0, rate // 100))
        resampled = torchaudio.functional.resample(torch.from_numpy(piece), rate, SAMPLE_RATE).numpy()
        skipped = (start - first) // step * step_after
        pieces.append(resampled[skipped : skipped + RESAMPLED_SECONDS * SAMPLE_RATE])
    return np.concatenate(pieces)[: resampled_length(len(waveform), rate)]


def resampled_length(num_samples: int, rate: int) -> int:
    """Count the samples at 16 kHz of a waveform at another rate, Hz."""
    return -(-num_samples * SAMPLE_RATE // rate)


def normalize(waveforms: Tensor, num_samples: Tensor) -> Tensor:
    """Bring each utterance to zero mean and unit variance over its real samples, padding left at zero.

    Source: the preprocessing of HuBERT-large (transformers' `Wav2Vec2FeatureExtractor`).

    Args:
        waveforms: (batch, samples).
        num_samples: (batch,), on any device.

    Returns:
        (batch, samples).
    """
    num_samples = num_samples.to(waveforms.device, non_blocking=True)
    length = num_samples[:, None].to(waveforms.dtype)
    real = num_samples.new_ones(waveforms.shape).cumsum(1) <= num_samples[:, None]
    mean = (waveforms * real).sum(1, keepdim=True) / length
    centred = (waveforms - mean) * real
    return centred / ((centred.square().sum(1, keepdim=True) / length) + 1e-7).sqrt()
