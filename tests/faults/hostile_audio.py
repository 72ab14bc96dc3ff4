"""Sound files, or what says it is one."""

import os
from collections.abc import Callable
from pathlib import Path

from fault import CHECK, FINETUNE, Good, Make, faults, sound, table, text, with_audio
from hostile_sounds import HOSTILE

TURNS = ["annotate", "{here}/turns.tsv", "--model", "{bundle}", "--out", "{here}/out.csv", "--speaker-from", "column"]
ATTRIBUTE = ["--model.attributes", "[arousal]", "--data.num_workers", "0"]
FIT = ["fit", *FINETUNE, *ATTRIBUTE, "--data.corpus", "{here}/corpus.csv"]
ANNOTATE = ["annotate", "{here}/bad.wav", "--model", "{bundle}", "--out", "{here}/out.csv"]


def annexed(path: Path) -> None:
    path.symlink_to(".git/annex/objects/x/SHA256E-s1--0.wav")


def raw(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


def to_train_on(content: Callable[[Path], object]) -> Make:
    """Three training utterances, one of them bad, and a validation set that can choose a model."""

    def make(good: Good, here: Path) -> None:
        for number in range(4):
            sound(here / f"{number}.wav", 16_000 + number)
        table("bad.wav,s,train,4", "0.wav,u,train,4", "1.wav,u,train,5", "2.wav,v,dev,3", "3.wav,v,dev,4")(good, here)
        content(here / "bad.wav")

    return make


def sounds(names: list[str], command: str, says: str) -> list[tuple]:
    """Decoding is one for all commands, and tested with every sound; these are what a command makes of a refusal."""
    made = [(name, *HOSTILE[name]) for name in names]
    make = to_train_on if command == "train on" else with_audio
    return [(f"{name} to {command}", says.format(line), make(raw(content))) for name, content, line in made]


OF_CHECK = [
    ("a pipe as sound", "isn't a file: 1: {here}/bad.wav", with_audio(os.mkfifo)),
    ("a folder as sound", "isn't a file: 1: {here}/bad.wav", with_audio(lambda path: path.mkdir())),
    ("a link to itself", "no such audio file: 1: {here}/bad.wav", with_audio(lambda path: path.symlink_to(path))),
    ("a link that git-annex left", "pointer of git-annex.*: 1: {here}/bad.wav", with_audio(annexed)),
    *sounds(["nothing", "NaN", "a WAV less a byte", "two parties of a call"], "check", r"error: .*({}).*: 1: .*/bad"),
]
OF_FIT = [
    ("a pipe to train on", "bad.wav: audio is missing or unreadable", to_train_on(os.mkfifo)),
    *sounds(["half a FLAC", "opposite phase"], "train on", r"bad\.wav: .*({})"),
]
OF_TURNS = [
    ("turns by onset", "column onset would say what part", text("turns.tsv", "path\tspeaker\tonset\na\tb\t1\n")),
    ("turns of files", r"Did you mean file\? Rename it to path", text("turns.tsv", "file\tspeaker\na\tb\n")),
]
OF_ANNOTATE = [
    ("a pipe to annotate", "failed: .*bad.wav: isn't a file", with_audio(os.mkfifo)),
    *sounds(["two WAVs in one", "zeros"], "annotate", r"failed: .*bad\.wav: .*({})"),
]
AUDIO = [*faults(CHECK, OF_CHECK, 1), *faults(FIT, OF_FIT), *faults(TURNS, OF_TURNS), *faults(ANNOTATE, OF_ANNOTATE, 1)]
