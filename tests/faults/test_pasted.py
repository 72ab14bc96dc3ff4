"""What an error tells people to type works when it is pasted."""

import ast
import inspect
import re
import shlex
from collections.abc import Iterator
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from command_line import REPOSITORY, configs, ser
from fault import CHECK, FIT, KMEANS, PAPT, TEST, Fault, Good, Make, copied, sound, table, text
from lightning.pytorch import Trainer
from test_faults import filled

TINY = [*configs("finetune.yaml", "tiny/finetune.yaml"), "--model.attributes", "[arousal]", "--data.num_workers", "0"]


def case(words: str, command: list[str], make: Make = Fault.make, then: str = "") -> object:
    """A command that fails, flags that its line names, and what it says with these where it needs more than them."""
    return pytest.param(words, command, make, then, id=f"{command[0]} {words}")


FEW = ["--trainer.limit_train_batches", "1", "--trainer.limit_val_batches", "1", "--data.num_workers", "0"]
SHORT = [*FIT, *FEW]
HUBERT = [*SHORT, "--model.encoder", "HubertEncoder"]
RAW = [*SHORT, "--model.encoder", "LogMelEncoder", "--model.fusion"]
CACHED = [*SHORT, *configs("cached.yaml", "tiny/cached.yaml")]
ANNOTATE = ["annotate", "{here}/speech", "--out", "{here}/out.csv", "--device", "cpu", "--model", "{bundle}"]
UNLEARNT = "speaker embeddings are neither pre-trained nor learnt here"


def nowhere(flag: str) -> list[str]:
    return [f"--{flag}", "{here}/none.safetensors"]


def speech(_good: Good, here: Path) -> None:
    (here / "speech" / "anna").mkdir(parents=True)
    sound(here / "speech" / "anna" / "a.wav", 48_000)


def checked(good: Good, here: Path) -> None:
    table()(good, here)
    (here / "clean.csv").touch()


def annotated(_good: Good, here: Path) -> None:
    rows = "speaker,start,end,arousal_calibrated,arousal_raw,file\na,0,1,4,3,a.wav\n"
    (here / "two.csv").write_text(rows)
    (here / "timeline.html").touch()


PASTED = [
    case("--ckpt_path finetune.ckpt", TEST, copied("finetune", "finetune.ckpt", lambda _: None)),
    case("--trainer.precision bf16-mixed", [*SHORT, "--trainer.precision", "bf16-true"]),
    case("--trainer.enable_checkpointing false", [*SHORT, "--trainer.callbacks", "LearningRateMonitor"]),
    case("--model.fusion last", [*RAW, "prefix"], then=UNLEARNT),
    case("--model.train_speaker_embedding true", [*RAW, "last"]),
    case("--model.encoder TinyEncoder", [*HUBERT, *nowhere("model.encoder.pretrained")]),
    case("--replace", SHORT, text("run/finetune.ckpt", "")),
    case("--replace", [*CHECK, "--write", "{here}/clean.csv"], checked),
    case("--data.augmentation null", [*CACHED, "--data.augmentation.gain", "[0,6]"], then="no cached features here"),
    case("--codebook null", [*KMEANS, *nowhere("codebook")]),
    case("--model.released_head null", [*PAPT, "{pseudo_labels}", *FEW, *nowhere("model.released_head")]),
    case("--calibration pldc", [*ANNOTATE, "--cut", "windows", "--calibration", "posterior"], speech),
    case("--cut windows", [*ANNOTATE, "--hop_seconds", "1"], speech),
    case("--out two_timeline.html", ["report", "two.csv"], annotated),
    case("--out page.html", ["report", "two.csv", "--out", "page"], annotated),
]


@cache
def syntax() -> list[ast.AST]:
    trees = (ast.parse(path.read_text()) for path in (REPOSITORY / "ser_personal").rglob("*.py"))
    return [node for tree in trees for node in ast.walk(tree)]


def all_of(kind: type[ast.AST]) -> Iterator[Any]:
    return (node for node in syntax() if isinstance(node, kind))


def remedies() -> set[str]:
    """Every remedy in the package, names of variables for their values."""
    told = [node.value for node in all_of(ast.keyword) if node.arg == "remedy"]
    told += [node.value for node in all_of(ast.Assign) if "remedy" in ast.unparse(node.targets[0]).lower()]
    texts = {ast.unparse(node) for node in told}
    assert len(texts) > 100
    return texts


def test_every_flag_that_a_remedy_names_exists():
    arguments = {arg.arg for node in all_of(ast.arguments) for arg in (*node.args, *node.kwonlyargs)}
    fields = {node.target.id for node in all_of(ast.AnnAssign) if isinstance(node.target, ast.Name)}
    known = {*(name.strip("_") for name in arguments | fields), *inspect.signature(Trainer.__init__).parameters}
    known |= {"config", "ckpt_path", "data", "model"}
    named = {flag for text in remedies() for flag in re.findall(r"--([a-z][\w.]*\w)(?![\w.{-])", text)} - {"help"}
    assert len(named) > 30
    assert {flag for flag in named if flag.rpartition(".")[2] not in known} <= {"nodes", "ntasks", "private"}


def test_brackets_are_quoted_for_bash_and_zsh():
    assert [text for text in remedies() if re.search(r"--[\w.]+ \[", text)] == []


@pytest.mark.parametrize(("words", "command", "make", "then"), PASTED)
def test_a_flag_works_when_it_is_pasted(words, command, make, then, good, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    places = {**asdict(good), "here": tmp_path}
    make(good, tmp_path)
    command = [filled(word, places) for word in command]
    assert ser(*command) == 2
    assert words in capsys.readouterr().err.splitlines()[-1]
    code = ser(*command, *shlex.split(words))
    shown = capsys.readouterr()
    assert (code, "") == (0, then) or (code == 2 and then and then in shown.err), shown.err
