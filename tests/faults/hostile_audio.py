"""Sound files, or what says it is one."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from fault import CHECK, FINETUNE, Good, faults, sound, table, text, with_audio
from hostile_sounds import HOSTILE, suffix

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TURNS = ["annotate", "{here}/turns.tsv", "--model", "{bundle}", "--out", "{here}/out.csv", "--speaker-from", "column"]
ATTRIBUTE = ["--model.attributes", "[arousal]", "--data.num_workers", "0"]
FIT = ["fit", *FINETUNE, *ATTRIBUTE, "--data.corpus", "{here}/corpus.csv"]
ANNOTATE = ["annotate", "{here}/bad.wav", "--model", "{bundle}", "--out", "{here}/out.csv"]


def raw(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


def loop(path: Path) -> None:
    path.symlink_to(path)


def annexed(path: Path) -> None:
    path.symlink_to(".git/annex/objects/x/SHA256E-s1--0.wav")


def to_train_on(content: Callable[[Path], object]) -> Callable[[Good, Path], object]:
    """Three training utterances, one of them bad, and a validation set that can choose a model."""

    def make(good: Good, here: Path) -> None:
        for number in range(4):
            sound(here / f"{number}.wav", 16_000 + number)
        table("bad.wav,s,train,4", "0.wav,u,train,4", "1.wav,u,train,5", "2.wav,v,dev,3", "3.wav,v,dev,4")(good, here)
        content(here / "bad.wav")

    return make


TO_TRAIN_ON = ("NaN", "half a FLAC", "opposite phase", "two parties of a call", "integers as floats", "zeros")
TO_ANNOTATE = (*TO_TRAIN_ON, "text", "two WAVs in one", "399 samples", "a note of Git LFS")
OF_CHECK = [
    ("a pipe as sound", "isn't a file: 1: {here}/bad.wav", with_audio(os.mkfifo)),
    ("a folder as sound", "isn't a file: 1: {here}/bad.wav", with_audio(lambda path: path.mkdir())),
    ("a link to itself", "no such audio file: 1: {here}/bad.wav", with_audio(loop)),
    ("a link that git-annex left", "pointer of git-annex.*: 1: {here}/bad.wav", with_audio(annexed)),
    *(
        (f"{name} as sound", rf"error: .*({line}).*: 1: {{here}}/bad", with_audio(raw(content), f"bad{suffix(name)}"))
        for name, (content, line) in HOSTILE.items()
    ),
]
AUDIO = [
    *faults(CHECK, OF_CHECK, code=1),
    *faults(
        FIT,
        [
            ("a pipe to train on", "bad.wav: audio is missing or unreadable", to_train_on(os.mkfifo)),
            *(
                (f"{name} to train on", rf"bad\.wav: .*({HOSTILE[name][1]})", to_train_on(raw(HOSTILE[name][0])))
                for name in TO_TRAIN_ON
            ),
        ],
    ),
    *faults(
        TURNS,
        [
            (
                "turns by onset",
                "column onset would say what part",
                text("turns.tsv", "path\tspeaker\tonset\na\tb\t1\n"),
            ),
            ("turns by channel", "column channel would say", text("turns.tsv", "path;speaker;channel\na;b;1\n")),
            ("turns of files", r"Did you mean file\? Rename it to path", text("turns.tsv", "file\tspeaker\na\tb\n")),
        ],
    ),
    *faults(
        ANNOTATE,
        [
            ("a pipe to annotate", "failed: .*bad.wav: isn't a file", with_audio(os.mkfifo)),
            *(
                (f"{name} to annotate", rf"failed: .*bad\.wav: .*({line})", with_audio(raw(content)))
                for name, (content, line) in HOSTILE.items()
                if name in TO_ANNOTATE
            ),
        ],
        code=1,
    ),
]
