"""One hostile input: what makes it, the command it is given to, and what the command must say and return."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

import numpy as np
import soundfile
import torch
from command_line import configs, trainer_flags

FLAGS = trainer_flags("{here}/run")
FINETUNE = [*configs("finetune.yaml", "tiny/finetune.yaml"), *FLAGS]
FIT = ["fit", *FINETUNE, "--data.corpus", "{corpus}"]
TEST = ["test", *FINETUNE, "--data.corpus", "{corpus}"]
PAPT = ["fit", *configs("papt.yaml", "tiny/papt.yaml"), *FLAGS, "--data.corpus", "{corpus}"]
PAPT = [*PAPT, "--data.min_samples", "8000", "--data.pseudo_labels"]
KMEANS = ["kmeans", *configs("kmeans.yaml", "tiny/kmeans.yaml"), "--data.corpus", "{corpus}", "--out", "{here}/out"]
CHECK = ["check", "{here}/corpus.csv"]


@dataclass(frozen=True)
class Good:
    """What is right, made once; a fault changes a copy of one thing."""

    corpus: Path  # in MSP-Podcast's layout
    pseudo_labels: Path
    papt: Path  # a checkpoint
    finetune: Path  # a checkpoint, with its bank, its test's folder and its bundle
    bank: Path
    run: Path
    bundle: Path
    vectors: Path  # of the run's utterances


# makes the input in a folder, from what is right
Make = Callable[[Good, Path], object]


@dataclass(frozen=True)
class Fault:
    name: str
    command: list[str]  # words after `ser`; {corpus} and so on stand for what `Good` holds, {here} for the folder
    says: str  # what the one line on it must match, with {here} as well
    make: Make = lambda _good, _here: None


def faults(command: list[str], rows: list[tuple]) -> list[Fault]:
    """Faults of one command, each a row of its name, what the command says, and what makes the input."""
    return [Fault(name, command, *rest) for name, *rest in rows]


def text(name: str, content: str | bytes) -> Make:
    raw = content if isinstance(content, bytes) else content.encode()

    def make(_good: Good, here: Path) -> None:
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_bytes(raw)

    return make


def copied(what: str, name: str, change: Callable[[Path], object]) -> Make:
    """Make a changed copy of something right: `change` gets the copy."""

    def make(good: Good, here: Path) -> None:
        source = getattr(good, what)
        copy = here / name
        if source.is_dir():
            shutil.copytree(source, copy)
        else:
            shutil.copy(source, copy)
        change(copy)

    return make


def cut(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def put(content: str) -> Callable[[Path], object]:
    return lambda path: path.write_text(content)


def edited(**changes: object) -> Callable[[Path], object]:
    return lambda path: path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def sound(path: Path) -> None:
    noise = np.random.default_rng(crc32(path.name.encode())).uniform(-0.5, 0.5, 16_000)
    soundfile.write(path, noise, 16_000)


def table(*rows: str) -> Make:
    """Make a corpus.csv of two sound rows, with their audio, and these."""

    def make(_good: Good, here: Path) -> None:
        for name in ("good.wav", "dev.wav"):
            sound(here / name)
        lines = ["path,speaker,split,arousal", "good.wav,s,train,2", "dev.wav,t,dev,3", *rows]
        (here / "corpus.csv").write_text("\n".join(lines) + "\n")

    return make


def checkpoint(what: str, change: Callable[[dict], object] = lambda _: None) -> Make:
    """Make bad.ckpt: a right checkpoint whose content `change` changes."""

    def make(good: Good, here: Path) -> None:
        content = torch.load(getattr(good, what), weights_only=True)
        change(content)
        torch.save(content, here / "bad.ckpt")

    return make
