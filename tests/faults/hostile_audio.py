"""Sound files, or what says it is one."""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING

from fault import CHECK, FINETUNE, Good, cut, faults, sound, table, with_audio

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

FIT = [
    "fit",
    *FINETUNE,
    "--data.num_workers",
    "0",
    "--model.attributes",
    "[arousal]",
    "--data.corpus",
    "{here}/corpus.csv",
]
ANNOTATE = ["annotate", "{here}/bad.wav", "--model", "{bundle}", "--out", "{here}/out.csv"]


def raw(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


def header(*, channels: int = 1, rate: int = 16_000, bits: int = 16, size: int = 3200, chunk: int = 16) -> bytes:
    """A WAV of 1,600 samples, its header saying what it is told to."""
    form = struct.pack(
        "<HHIIHH", 1, channels, rate, rate * channels * bits // 8 % 2**32, channels * bits // 8 % 2**16, bits
    )
    return (
        b"RIFF"
        + struct.pack("<I", 36 + size)
        + b"WAVEfmt "
        + struct.pack("<I", chunk)
        + form
        + b"data"
        + struct.pack("<I", size)
        + bytes(3200)
    )


def half(path: Path) -> None:
    sound(path, 64_000)
    cut(path)


def loop(path: Path) -> None:
    path.symlink_to(path)


def bad_test(content: Callable[[Path], object], name: str = "bad.wav") -> Callable[[Good, Path], object]:
    """Four training utterances, one of them bad."""

    def make(good: Good, here: Path) -> None:
        for number in range(3):
            sound(here / f"{number}.wav", 16_000 + number)
        table(f"{name},s,train,4", "0.wav,u,train,4", "1.wav,u,train,5", "2.wav,v,dev,3")(good, here)
        content(here / name)

    return make


def half_and_sound(path: Path) -> None:
    half(path)


OF_CHECK = [
    ("words as sound", "audio file unreadable: 1: {here}/bad.wav", with_audio(raw(b"not a sound"))),
    ("nothing as sound", "audio file empty", with_audio(raw(b""))),
    ("a header alone", "audio file truncated", with_audio(raw(header()[:44]))),
    ("half a header", "audio file unreadable", with_audio(raw(header()[:20]))),
    ("more announced than there is", "audio file truncated", with_audio(raw(header(size=2**31 - 2**20)))),
    ("no channel", "audio file unreadable", with_audio(raw(header(channels=0)))),
    ("65,535 channels", "audio file unreadable: .*Too many channels", with_audio(raw(header(channels=65_535)))),
    ("no sample rate", "audio file unreadable", with_audio(raw(header(rate=0)))),
    ("a sample rate of 4 GHz", "audio file unreadable", with_audio(raw(header(rate=2**32 - 1)))),
    ("a chunk of 4 GB before the sound", "audio file unreadable", with_audio(raw(header(chunk=2**32 - 1)))),
    ("a sample that is no number", "audio of NaN, infinity", with_audio(lambda path: sound(path, value=float("nan")))),
    ("a sample of infinity", "audio of NaN, infinity", with_audio(lambda path: sound(path, value=float("inf")))),
    ("half a FLAC", r"audio file (truncated|unreadable): 1: .*bad\.flac", with_audio(half, "bad.flac")),
    ("noise as MP3", "audio file unreadable", with_audio(raw(bytes(range(256)) * 40), "bad.mp3")),
    ("a pipe as sound", "unreadable: 1: .*isn't a file", with_audio(os.mkfifo)),
    ("a folder as sound", "unreadable: 1: .*isn't a file", with_audio(lambda path: path.mkdir())),
    ("a link to itself", "audio file missing", with_audio(loop)),
    ("399 samples", r"audio shorter than 400 samples: 1: .*\(399 samples\)", with_audio(lambda path: sound(path, 399))),
]
OF_FIT = [
    ("a pipe to train on", "bad.wav: audio is missing or unreadable", bad_test(os.mkfifo)),
    ("NaN to train on", "bad.wav: holds NaN", bad_test(lambda path: sound(path, value=float("nan")))),
    ("half a FLAC to train on", r"bad\.flac: can't be decoded", bad_test(half_and_sound, "bad.flac")),
]
OF_ANNOTATE = [
    ("words to annotate", "failed: .*bad.wav", with_audio(raw(b"words"))),
    ("a pipe to annotate", "failed: .*bad.wav: isn't a regular file", with_audio(os.mkfifo)),
]
AUDIO = [
    *faults(CHECK, OF_CHECK, code=1),
    *faults(FIT, OF_FIT),
    *faults(ANNOTATE, OF_ANNOTATE, code=1),
]
