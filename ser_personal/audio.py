"""Sound files -> mono 16 kHz waveforms, and how many frames HuBERT makes of them."""

from __future__ import annotations

import os
import re
from contextlib import contextmanager
from fractions import Fraction
from functools import lru_cache
from itertools import chain, pairwise
from math import ceil, isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, overload

import numpy as np
import soundfile

from ser_personal.damage import TRUNCATED, damage
from ser_personal.errors import UserError
from ser_personal.files import refuse_pointer

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from ser_personal.types import Utterance

SAMPLE_RATE = 16_000
WINDOW = 400
HOP = 320
FRAME_RATE = SAMPLE_RATE // HOP
# of sound, Hz; the kernel of a resampling grows with the rate
LOWEST_RATE, HIGHEST_RATE = 1_000, 1_000_000
# read at once, all channels together: many channels must not take many times the memory of one
BLOCK_VALUES = 4_000_000
# torchaudio's default filter: zero crossings of the sinc on each side, and where it cuts off, relative to Nyquist
ZERO_CROSSINGS, ROLLOFF = 6, 0.99
# of a long file, decoded at once
PIECE = 60 * SAMPLE_RATE
# full scale is 1; samples 30 dB above it are integers in a file of floats, which a model would hear as noise
LOUDEST = 32.0
SILENCE = 1e-4  # peak to peak: three steps of 16 bits, less than dither
# power of the mix, relative to what unrelated channels leave, below which channels cancel one another
CANCELLED = 0.2
# how two channels hold two voices: neither is far below the other, both come and go, and not together
ENVELOPE_SAMPLES = 1024
QUIETER_CHANNEL, VARIES, TOGETHER = 0.01, 0.5, 0.3
# what to do about a file that can't be used
BAD_AUDIO = "Write it again, or leave it out of the corpus: `ser check CORPUS --write clean.csv`"
# those that libsndfile reads, and common ones that it doesn't: to be named as failures rather than passed over
SOUND_FILES = {".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aiff", ".aif", ".aifc", ".au", ".snd", ".caf"}
SOUND_FILES |= {".wave", ".bwf", ".w64", ".rf64", ".sph", ".nist", ".voc", ".paf", ".pvf", ".avr", ".sf", ".ircam"}
SOUND_FILES |= {".sds", ".svx", ".8svx", ".wve", ".mp2", ".m4a", ".aac", ".mp4", ".wma", ".webm", ".amr"}
NO_SOUND = f"holds NaN, infinity or samples beyond {LOUDEST:g} times full scale"
SILENT = "is silent from beginning to end"
TOO_SHORT = f"is shorter than one frame, {WINDOW} samples at 16 kHz"


class Header(NamedTuple):
    """What a sound file says of itself: its length once at 16 kHz, its own rate in Hz, and its channels."""

    num_samples: int
    sample_rate: int
    channels: int


@overload
def num_frames(num_samples: int) -> int: ...
@overload
def num_frames(num_samples: Tensor) -> Tensor: ...
def num_frames(num_samples: int | Tensor) -> int | Tensor:
    """Count HuBERT's frames: a window of 400 samples every 320 samples, none in under 400 samples."""
    frames = (num_samples - WINDOW) // HOP + 1
    return max(0, frames) if isinstance(frames, int) else frames.clamp(min=0)


def find_sound_files(folder: Path) -> list[Path]:
    """List the sound files of a folder, and of those inside it or linked there, session2 before session10.

    Hidden files and folders are left out, and a folder that several links lead to is listed once.
    """

    def refuse(error: OSError) -> None:
        # `os.walk` would leave out a folder that can't be read
        raise error

    remedy = "Give a folder with wav, flac, ogg or mp3 files"
    if not folder.is_dir():
        raise UserError("no such folder", where=folder, remedy=remedy)
    found: list[Path] = []
    folders, listed = [folder], set()
    # links after all else, so that what is in the folder itself keeps its own path, and with it its speaker
    for start in folders:
        for place, inside, names in os.walk(start, onerror=refuse):
            inside[:] = sorted(name for name in inside if not name.startswith("."))
            if (real := os.path.realpath(place)) in listed:
                inside.clear()
                continue
            listed.add(real)
            folders += [path for path in map(Path(place).joinpath, inside) if path.is_symlink()]
            paths = (Path(place, name) for name in names if not name.startswith("."))
            found += [path for path in paths if path.suffix.lower() in SOUND_FILES]
    if not found:
        raise UserError("holds no sound file", where=folder, remedy=remedy)
    return sorted(found, key=lambda path: ([by_numbers(part) for part in path.with_suffix("").parts], path))


def by_numbers(name: str) -> list[Any]:
    """Make the key that sorts names by the value of the numbers in them, take2 before take10."""
    # of two numbers without leading zeros, the one with more digits is greater
    pieces = enumerate(re.split(r"0*(\d+)", name))
    return [(len(piece), piece) if place % 2 else piece for place, piece in pieces]


def read_header(path: Path) -> Header:
    """Read a file's header."""
    with _open(path) as file:
        return Header(resampled_length(file.frames, file.samplerate), file.samplerate, file.channels)


def decode(
    path: Path, start: int = 0, num_samples: int | None = None, *, is_segment: bool = False, channel: int | None = None
) -> NDArray[np.float32]:
    """Decode a file, or a part of it, which equals the same part of the whole, to mono at 16 kHz.

    Several channels that are mixed are decoded and judged as a whole, and then cut, unless the part is a segment.

    Args:
        path: any format that libsndfile reads (wav, flac, ogg, mp3, ...).
        start: first sample, at 16 kHz.
        num_samples: how many samples at 16 kHz; to the end if None.
        is_segment: it is one speaker's turn in a recording of several, whose channels may hold two voices elsewhere.
        channel: the only one to read, from 0; all are mixed if None.

    Returns:
        (samples,), fewer than `num_samples` where the file ends before.
    """
    with _open(path) as file:
        everything = range(resampled_length(file.frames, file.samplerate))
        part = everything[start:][:num_samples]
        alone = is_segment or file.channels == 1 or channel is not None
        whole = not alone or part == everything
        pieces, envelopes = zip(*_read_pieces(file, everything if whole else part, PIECE, path, channel), strict=True)
    _refuse_channels(list(chain(*envelopes)), path)
    waveform = np.concatenate(pieces)
    fault = fault_of(waveform) if whole else None if is_sound(waveform) else NO_SOUND
    if fault is not None:
        raise UserError(fault, where=path, remedy=BAD_AUDIO)
    return waveform[part.start : part.stop] if whole else waveform


def decode_blocks(path: Path, num_samples: int, channel: int | None = None) -> Iterator[NDArray[np.float32]]:
    """Decode a file in equal blocks of at most `num_samples`, which joined equal what `decode` has, up to rounding.

    Errors are those of `decode`; channels are judged by what was read so far, and silence at the end.
    """
    silent, envelopes = True, []
    with _open(path) as file:
        everything = range(resampled_length(file.frames, file.samplerate))
        for waveform, new in _read_pieces(file, everything, num_samples, path, channel):
            envelopes += new
            _refuse_channels(envelopes, path)
            if not is_sound(waveform):
                raise UserError(NO_SOUND, where=path, remedy=BAD_AUDIO)
            silent = silent and is_silent(waveform)
            yield waveform
    if silent:
        raise UserError(SILENT, where=path, remedy=BAD_AUDIO)


def decode_utterance(utterance: Utterance, start: int = 0, num_samples: int | None = None) -> NDArray[np.float32]:
    """Decode an utterance, or a part of it, as `decode` does; `start` counts from where the utterance begins."""
    if utterance.start is None:
        return decode(utterance.path, start, num_samples)
    if isnan(utterance.seconds):
        raise UserError("can't be read, or ends before a segment of it", where=utterance.path, remedy=BAD_AUDIO)
    segment = part_of(utterance)
    part = segment[start:][:num_samples]
    waveform = decode(utterance.path, part.start, len(part), is_segment=True)
    if part == segment and (fault := fault_of(waveform)):
        raise UserError(fault, where=utterance.path, remedy=BAD_AUDIO)
    return waveform


def part_of(utterance: Utterance) -> range:
    """Find which samples of its file, at 16 kHz, an utterance is; its `seconds` must be known."""
    start = utterance.start or 0.0
    # each end is rounded, and not the length, which would reach beyond the file from half a sample on
    return range(round(start * SAMPLE_RATE), round((start + utterance.seconds) * SAMPLE_RATE))


def fault_of(waveform: NDArray[np.float32]) -> str | None:
    """Find what makes a whole recording or segment (samples,) unusable, None where nothing does."""
    if len(waveform) < WINDOW:
        return TOO_SHORT
    if not is_sound(waveform):
        return NO_SOUND
    return SILENT if is_silent(waveform) else None


def is_sound(waveform: NDArray[np.float32]) -> bool:
    """Tell whether samples (samples,) are finite, and in any range that sound comes in."""
    # NaN compares as neither
    return bool(waveform.max(initial=0) <= LOUDEST and waveform.min(initial=0) >= -LOUDEST)


def is_silent(waveform: NDArray[np.float32]) -> bool:
    """Tell whether a waveform (samples,) is silent: constant, up to noise of the last bits."""
    return len(waveform) == 0 or bool(waveform.max() - waveform.min() <= SILENCE)


@contextmanager
def _open(path: Path) -> Iterator[soundfile.SoundFile]:
    try:
        # opening a pipe would wait for its writer for ever
        if path.exists() and not path.is_file():
            raise UserError("isn't a file", where=path, remedy=BAD_AUDIO)
        # soundfile encodes no name that isn't text
        with _SoundFile(os.fsencode(path)) as file:
            if wrong := damage(path, file.extra_info):
                raise UserError(wrong, where=path, remedy=BAD_AUDIO)
            if not LOWEST_RATE <= file.samplerate <= HIGHEST_RATE:
                what = f"has {file.samplerate:,} samples a second, where sound has {LOWEST_RATE:,} to {HIGHEST_RATE:,}"
                raise UserError(what, where=path, remedy=BAD_AUDIO)
            yield file
    # TypeError: raw audio without a header; ValueError: a path that holds a zero byte
    except (soundfile.SoundFileError, OSError, TypeError, ValueError) as error:
        refuse_pointer(path)
        # libsndfile's or the system's own words, without the path, which the error names anyway
        reason = str(getattr(error, "error_string", getattr(error, "strerror", None) or error)).rstrip(".")
        what = f"can't be decoded ({reason})" if path.exists() else "no such audio file"
        raise UserError(what, where=path, remedy=BAD_AUDIO) from error


def _read_pieces(
    file: soundfile.SoundFile, part: range, size: int, path: Path, channel: int | None
) -> Iterator[tuple[NDArray[np.float32], list[NDArray[np.float64]]]]:
    """Read a part in equal pieces of at most `size`: of each its samples at 16 kHz, and the power of what it read."""
    if channel is not None and channel >= file.channels:
        what = f"has no channel {channel + 1}, but {file.channels}"
        raise UserError(what, where=path, remedy="Choose another channel")
    rate, count = file.samplerate, max(1, -(-len(part) // size))
    up, down = Fraction(SAMPLE_RATE, rate).as_integer_ratio()
    # how many samples of the file the filter needs on either side
    reach = 0 if rate == SAMPLE_RATE else ceil(ZERO_CROSSINGS / ROLLOFF * max(1, rate / SAMPLE_RATE)) + 1
    buffer, begin = np.zeros(0, dtype=np.float32), 0
    for start, stop in pairwise(part.start + len(part) * number // count for number in range(count + 1)):
        # a sample that one at 16 kHz coincides with
        first = max(0, start * rate // SAMPLE_RATE - reach) // down * down
        last = min(file.frames, stop * rate // SAMPLE_RATE + reach + 1)
        if first > begin + len(buffer):
            _skip(file, first)
            buffer, begin = buffer[:0], first
        blocks, envelopes = _read(file, last - begin - len(buffer), path, channel)
        buffer, begin = np.concatenate([buffer[first - begin :], *blocks]), first
        offset = start - first // down * up
        yield resample(buffer, rate)[offset : offset + stop - start], envelopes


class _SoundFile(soundfile.SoundFile):
    """A file that is read from its beginning where it is an MP3, in which seeking loses samples and prints errors."""

    def seekable(self) -> bool:
        return self.format != "MP3" and bool(super().seekable())


def _skip(file: soundfile.SoundFile, num_samples: int) -> None:
    if file.seekable():
        file.seek(num_samples)
        return
    left, size = num_samples, max(1, BLOCK_VALUES // file.channels)
    while left > 0 and (read := len(file.read(min(left, size), dtype="float32"))):
        left -= read


def _read(
    file: soundfile.SoundFile, num_samples: int, path: Path, channel: int | None
) -> tuple[list[NDArray[np.float32]], list[NDArray[np.float64]]]:
    """Read the next samples of a channel, or mix all, each (samples,), and their power over time."""
    size = max(1, BLOCK_VALUES // file.channels // ENVELOPE_SAMPLES) * ENVELOPE_SAMPLES
    blocks, envelopes, left = [], [], num_samples
    while left > 0 and len(block := file.read(min(left, size), dtype="float32", always_2d=True)):
        left -= len(block)
        if file.channels == 1 or channel is not None:
            # a copy, which doesn't keep the other channels
            blocks.append(block[:, channel or 0].copy())
        else:
            blocks.append(block.mean(axis=1, dtype=np.float32))
            envelopes.append(_envelope(np.column_stack([block, blocks[-1]])))
    if left > 0:
        raise UserError(TRUNCATED, where=path, remedy=BAD_AUDIO)
    return blocks, envelopes


def _envelope(block: NDArray[np.float32]) -> NDArray[np.float64]:
    """Sum the power of every 1,024 samples, (samples, columns) -> (stretches, columns)."""
    starts = np.arange(0, len(block), ENVELOPE_SAMPLES)
    with np.errstate(over="ignore", invalid="ignore"):  # of what is no sound, and refused as such
        envelope: NDArray[np.float64] = np.add.reduceat(np.square(block, dtype=np.float64), starts)
    return envelope


def _refuse_channels(envelopes: Sequence[NDArray[np.float64]], path: Path) -> None:
    """Judge channels by their power over time, each (stretches, channels and the mix last); none where there is one."""
    if not envelopes:
        return
    envelope = np.concatenate(envelopes)
    channels, mixed = envelope[:, :-1], envelope[:, -1].sum()
    power = channels.sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        varies = channels.std(0) / channels.mean(0) > VARIES
    voices = channels[:, (power > QUIETER_CHANNEL * power.max()) & varies]
    if mixed * len(power) ** 2 < CANCELLED * power.sum():
        wrong = "channels that cancel one another when mixed"
    elif voices.shape[1] > 1 and len(voices) > 1 and np.corrcoef(voices.T).min() < TOGETHER:
        wrong = "channels that hold different voices"
    else:
        return
    remedy = "Keep one channel, or give each one a file of its own (`ser annotate` has --channel left and each)"
    raise UserError(f"has {len(power)} {wrong}", where=path, remedy=remedy)


def resample(waveform: NDArray[np.float32], rate: int) -> NDArray[np.float32]:
    """Bring a waveform (samples,) at another rate, Hz, to 16 kHz, as `torchaudio.functional.resample` does.

    That one takes memory of the product of both rates where they have no common divisor.
    """
    if rate == SAMPLE_RATE:
        return waveform
    # imported here because only files at other rates need it
    from scipy.signal import resample_poly

    resampled: NDArray[np.float32] = resample_poly(waveform, SAMPLE_RATE, rate, window=_kernel(rate))
    return resampled


@lru_cache(maxsize=4)
def _kernel(rate: int) -> NDArray[np.float32]:
    """Sample the windowed sinc at the least common multiple of both rates; (taps,), odd, its middle the peak."""
    up, down = Fraction(SAMPLE_RATE, rate).as_integer_ratio()
    cutoff = ROLLOFF * min(down, up)
    reach = ceil(ZERO_CROSSINGS * down * up / cutoff)
    times = np.arange(-reach, reach + 1) * (cutoff / (down * up))
    window = np.where(np.abs(times) < ZERO_CROSSINGS, np.cos(times * (np.pi / ZERO_CROSSINGS / 2)) ** 2, 0)
    kernel: NDArray[np.float32] = (np.sinc(times) * window * (cutoff / down / up)).astype(np.float32)
    return kernel


def resampled_length(num_samples: int, rate: int) -> int:
    """Count the samples at 16 kHz of a waveform at another rate, Hz."""
    return -(-num_samples * SAMPLE_RATE // rate)


def normalize(waveforms: Tensor, num_samples: Tensor, moments: Sequence[float] | None = None) -> Tensor:
    """Bring each utterance to zero mean and unit variance over its real samples, padding left at zero.

    Source: the preprocessing of HuBERT-large (transformers' `Wav2Vec2FeatureExtractor`); with moments, that of the
    Odyssey 2024 challenge's baseline.

    Args:
        waveforms: (batch, samples).
        num_samples: (batch,), on any device.
        moments: mean and standard deviation to take instead of each utterance's own.
    """
    num_samples = num_samples.to(waveforms.device, non_blocking=True)
    length = num_samples[:, None].to(waveforms.dtype)
    real = num_samples.new_ones(waveforms.shape).cumsum(1) <= num_samples[:, None]
    if moments is not None:
        return (waveforms - moments[0]) / (moments[1] + 1e-6) * real
    mean = (waveforms * real).sum(1, keepdim=True) / length
    centred = (waveforms - mean) * real
    return centred / ((centred.square().sum(1, keepdim=True) / length) + 1e-7).sqrt()
