"""What an error tells people to type works when it is pasted."""

from __future__ import annotations

import ast
import inspect
import re
import shlex
from dataclasses import asdict
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import soundfile
from command_line import REPOSITORY, configs, ser, trainer_flags
from lightning.pytorch import Trainer
from pasted import PASTED, UNPASTED
from test_faults import filled

TINY = [*configs("finetune.yaml", "tiny/finetune.yaml"), "--model.attributes", "[arousal]", "--data.num_workers", "0"]


@cache
def syntax() -> list[ast.AST]:
    return [
        node for path in (REPOSITORY / "ser_personal").rglob("*.py") for node in ast.walk(ast.parse(path.read_text()))
    ]


def remedies() -> set[str]:
    """Every remedy in the package, names of variables for their values."""
    told = [node.value for node in syntax() if isinstance(node, ast.keyword) and node.arg == "remedy"]
    told += [
        node.value
        for node in syntax()
        if isinstance(node, ast.Assign) and "remedy" in ast.unparse(node.targets[0]).lower()
    ]
    texts = {ast.unparse(node) for node in told}
    assert len(texts) > 100
    return texts


def test_every_flag_that_a_remedy_names_exists():
    arguments = {
        arg.arg for node in syntax() if isinstance(node, ast.arguments) for arg in (*node.args, *node.kwonlyargs)
    }
    fields = {
        node.target.id for node in syntax() if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }
    known = {*(name.strip("_") for name in arguments | fields), *inspect.signature(Trainer.__init__).parameters}
    known |= {"config", "ckpt_path", "data", "model"}
    named = {flag for text in remedies() for flag in re.findall(r"--([a-z][\w.]*\w)(?![\w.{-])", text)} - {"help"}
    assert len(named) > 30
    assert {flag for flag in named if flag.rpartition(".")[2] not in known} <= {"nodes", "ntasks"}  # SLURM's


def test_brackets_are_quoted_for_bash_and_zsh():
    assert [text for text in remedies() if re.search(r"--[\w.]+ \[", text)] == []


@pytest.mark.parametrize("case", PASTED, ids=lambda case: f"{case.command[0]} {case.words}")
def test_a_flag_works_when_it_is_pasted(case, good, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    places = {**asdict(good), "here": tmp_path}
    case.make(good, tmp_path)
    command = [filled(word, places) for word in case.command]
    capsys.readouterr()
    assert ser(*command) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert case.words in line
    code = ser(*command, *shlex.split(case.words))
    shown = capsys.readouterr()
    assert (code, "") == (0, case.then) or (code == 2 and case.then and case.then in shown.err), shown.err


def test_every_remedy_that_names_a_flag_is_pasted_or_says_why_not():
    pieces = [*(case.remedy for case in PASTED), *(piece for reason in UNPASTED.values() for piece in reason)]
    naming = [text for text in remedies() if re.search(r"--[a-z]", text)]
    assert len(naming) > 60
    assert [text for text in naming if not any(piece in text for piece in pieces)] == []
    assert [piece for piece in pieces if not any(piece in text for text in naming)] == []


@pytest.fixture
def table(tmp_path, monkeypatch):
    """Writes a corpus.csv in a folder with a blank and a bracket in its name, of speakers s, t and u."""
    folder = tmp_path / "my [corpus]"
    folder.mkdir()
    monkeypatch.chdir(tmp_path)

    def write(*rows: str, name: str = "corpus.csv") -> str:
        rng = np.random.default_rng(0)
        lines = [f"{n}.wav,{'stu'[n % 3]},{'dev' if n % 3 == 2 else 'train'},{1 + n % 5}" for n in range(12)]
        for n in range(14):
            soundfile.write(folder / f"{n}.wav", rng.normal(0, 0.1, 8000 + n), 16_000)
        (folder / name).write_text("\n".join(["path,speaker,split,arousal", *lines, *rows]))
        return f"my [corpus]/{name}"

    return write


def pasted(capsys) -> list[str]:
    """What the last error says between backquotes, as a shell splits it."""
    line = capsys.readouterr().err.splitlines()[-1]
    return shlex.split(re.findall("`(.*?)`", line)[-1])


def test_a_set_that_may_share_speakers(table, tmp_path, capsys):
    path = table("12.wav,s,test,3", "13.wav,t,test2,3")
    fit = ["fit", *TINY, *trainer_flags(tmp_path)]
    assert ser(*fit, "--data.corpus", path) == 2
    allowing = pasted(capsys)
    assert allowing[-1] == "[test1,test2]"
    assert ser(*fit, "--data.corpus", path, *allowing) == 0


def test_the_scale_of_labels_that_lie_outside_it(table, capsys):
    assert ser("check", table("12.wav,s,train,9")) == 1
    shown = capsys.readouterr().out
    assert "Where the labels' scale is 1 to 9: " in shown
    _, *command = shlex.split(re.findall("`(.*?)`", shown)[-1])
    assert ser(*command) == 0


@pytest.mark.parametrize("command", [["check"], ["folds", "--count", "3", "--out", "folds", "--replace", "true"]])
def test_audio_outside_the_corpus_folder(table, tmp_path, capsys, command):
    path = table("../12.wav,s,train,3", f"{tmp_path}/13.wav,s,train,3")
    for name in ("12.wav", "13.wav"):
        Path(f"my [corpus]/{name}").rename(name)
    name, *rest = command
    assert ser(name, "my [corpus]", *rest) == 2
    assert ser(name, *pasted(capsys), *rest) == 0
    assert ser(name, path, *rest) == 0
