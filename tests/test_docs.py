"""The documentation: every fenced block of every page, what its shell blocks call, and the site that is made of it."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest
from command_line import REPOSITORY, stage

import ser_personal
from ser_personal import MSPPodcast
from ser_personal.arguments import parse, read_configs, values_of, with_found_configs
from ser_personal.cli import COMMANDS, STAGES, check_before_imports
from ser_personal.corpus.synthetic import converse

PAGES = sorted(
    path.relative_to(REPOSITORY).as_posix()
    for path in (*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").rglob("*.md"))
    if path.name != "CHANGELOG.md"
)
FENCE = re.compile(r"^(?P<indent> *)```(?P<info>[^\n`]*)\n(?P<code>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL)
TITLE = re.compile(r'title="([^"]+)"')
SHELLS = {"", "bash", "sh", "console"}
STARTS = re.compile(r"^(#!/bin/bash|(\w+=\S+ )?(ser|make|pip|python|sbatch|srun|hf|torchrun) )", re.MULTILINE)
RECORDER = """
command_not_found_handle() { printf '%q ' "$@" >> "$CALLS"; printf '\\n' >> "$CALLS"; }
srun() { "$@"; }
torchrun() { while [[ $1 == --*=* ]]; do shift; done; ser "${@:2}"; }
source() { :; }
"""
# what three dots among the arguments stand for
USUAL_TEST = "--config configs/finetune.yaml --config configs/pldc.yaml --data.corpus CORPUS --ckpt_path finetune.ckpt"
NOTEBOOKS = sorted((REPOSITORY / "docs" / "notebooks").glob("*.ipynb"))
REQUESTED = re.compile(r"<(?:link|script|img|iframe)\b[^>]*\b(?:href|src)=\"?(https?:[^\s\">]+)|url\(\W?(https?:[^)]+)")


def blocks(page: str) -> list[SimpleNamespace]:
    """Fenced blocks: page and line, language, "" where the fence names none, title of the file shown, if any, code."""
    text = (REPOSITORY / page).read_text(encoding="utf-8")
    found = []
    for fence in FENCE.finditer(text):
        language, _, rest = fence["info"].strip().partition(" ")
        title = TITLE.search(rest)
        code = re.sub(rf"^{fence['indent']}", "", fence["code"], flags=re.MULTILINE)
        line = text[: fence.start()].count("\n") + 2
        found.append(SimpleNamespace(where=f"{page}:{line}", language=language, title=title and title[1], code=code))
    return found


def show_files(page: str, folder: Path) -> None:
    """Write the files that a page shows, whole, into a folder."""
    for block in blocks(page):
        if block.title is not None:
            (folder / block.title).parent.mkdir(parents=True, exist_ok=True)
            (folder / block.title).write_text(block.code, encoding="utf-8")


def command_lines(page: str, folder: Path) -> list[tuple[str, list[str]]]:
    """Each command of a page's shell blocks, in order: where its block stands, and its words as a shell reads them."""
    bash, calls, found = shutil.which("bash"), folder / ".calls", []
    environment = {"PATH": "/nowhere", "CALLS": str(calls), "SLURM_ARRAY_TASK_ID": "0"}
    for block in blocks(page):
        if block.language in SHELLS and STARTS.search(block.code):
            script = block.code.replace(" ... ", f" {USUAL_TEST} ")
            # a shell that finds no program and writes down what it was asked for
            calls.write_text("")
            subprocess.run([bash, "-c", RECORDER + script], cwd=folder, env=environment, check=True, timeout=600)
            found += [(block.where, shlex.split(line)) for line in calls.read_text(encoding="utf-8").splitlines()]
    return found


WITH_PYTHON = [page for page in PAGES if any(block.language == "python" for block in blocks(page))]
WITH_COMMANDS = [page for page in PAGES if any(block.language in SHELLS for block in blocks(page))]
MAKE_TARGETS = re.findall(r"^([a-z]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
EXTRAS = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]


@pytest.fixture(scope="session")
def after_the_quick_start(
    synthetic_corpus, synthetic_pseudo_labels, papt_checkpoint, tested_checkpoint, bundle_folder, tmp_path_factory
) -> Path:
    """The folder in which a reader of the quick start stands at its end, and recordings of Anna."""
    folder = tmp_path_factory.mktemp("desk") / "desk"
    folder.mkdir()
    for name in ("corpus", "CORPUS", "MSP", "recordings"):
        (folder / name).symlink_to(synthetic_corpus)
    (folder / "configs").symlink_to(REPOSITORY / "configs")
    (folder / "pseudo_labels").symlink_to(synthetic_pseudo_labels)
    shutil.copytree(tested_checkpoint.parent, folder, dirs_exist_ok=True)
    shutil.copy(papt_checkpoint, folder)
    shutil.copytree(bundle_folder, folder / "bundle")
    for number, utterance in enumerate(MSPPodcast(str(synthetic_corpus)).utterances[-6:], start=1):
        shutil.copy(utterance.path, folder / f"anna_{number}.wav")
    # as `ser demo` leaves them
    (folder / "demo").mkdir()
    (folder / "demo" / "bundle").symlink_to("../bundle")
    converse(folder / "demo" / "conversation", {"ben": 1, "ada": 3}, turns=4)
    return folder


@pytest.fixture
def desk(after_the_quick_start, tmp_path, monkeypatch) -> Path:
    """A copy of that folder to work in."""
    shutil.copytree(after_the_quick_start, tmp_path / "desk", symlinks=True)
    monkeypatch.chdir(tmp_path / "desk")
    monkeypatch.syspath_prepend(str(tmp_path / "desk"))
    return tmp_path / "desk"


@pytest.mark.parametrize("page", WITH_PYTHON)
def test_python_runs_from_the_top_of_the_page_to_its_end(page, desk):
    show_files(page, desk)
    names: dict[str, object] = {"__name__": "__main__"}
    for block in blocks(page):
        if block.language == "python" and block.title is None:
            exec(compile(block.code, block.where, "exec"), names)  # noqa: S102


@pytest.mark.parametrize("page", WITH_COMMANDS)
def test_command_lines_parse(page, desk, monkeypatch):
    # what the shipped configs name is instantiated by their own tests
    monkeypatch.setattr("ser_personal.stages.stage_cli.StageCLI.instantiate_classes", lambda _: None)
    monkeypatch.setattr("ser_personal.stages.stage_cli.StageCLI._run_subcommand", lambda *_: None)
    # the command line is what is looked at, not whether an optional package is installed
    monkeypatch.setattr("ser_personal.stages.stage_cli.find_spec", lambda name: name)
    show_files(page, desk)
    for where, words in command_lines(page, desk):
        # where the fits of a page would have left them
        for path in values_of(["--ckpt_path"], words):
            if not (desk / path).exists():
                (desk / path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(desk / ("papt.ckpt" if "apt" in Path(path).stem else "finetune.ckpt"), desk / path)
        try:
            understand(*words)
        except Exception as error:
            raise AssertionError(f"{where}: {shlex.join(words)}") from error


# pages repeat commands
@cache
def understand(*words: str) -> None:
    """Parse what is ours to parse, and run nothing."""
    program, *rest = with_found_configs(words) if words[0] == "ser" else words
    if program == "make":
        assert set(rest) <= {*MAKE_TARGETS, "FAISS=gpu"}
    elif program == "pip":
        assert all(set(re.findall(r"\w+", extras)) <= set(EXTRAS) for extras in re.findall(r"\[(.*)\]", " ".join(rest)))
    elif program == "python" and rest[0].endswith(".py"):
        assert (REPOSITORY / rest[0]).is_file()
    elif program == "ser" and rest[0] in STAGES:
        check_before_imports(rest[0], rest[1:])
        stage(*rest, "--trainer.accelerator", "cpu")
    elif program == "ser" and not rest[0].startswith("--"):
        name, *arguments = rest
        read_configs(arguments)
        if "--help" not in arguments:
            parse(COMMANDS[name].load(), f"ser {name}", COMMANDS[name].positional, arguments)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebooks_cells_run_in_their_order(notebook, tmp_path, monkeypatch):
    """By a loop and not by a Jupyter kernel, which the package doesn't need."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "__main__"}
    for number, cell in enumerate(json.loads(notebook.read_text(encoding="utf-8"))["cells"]):
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            exec(compile("".join(cell["source"]), f"{notebook.name}, cell {number}", "exec"), names)  # noqa: S102
    assert (tmp_path / "timeline.html").is_file()
    assert {"Anna", "Bert"} == set(names["predicted"]["speaker"])


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> list[str]:
    """Pages and styles of the whole site, by `make docs`' own command: a broken link or reference fails."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    ran = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return [path.read_text(encoding="utf-8") for path in folder.rglob("*") if path.suffix in {".html", ".css"}]


def test_every_public_name_and_command_is_in_the_reference(site):
    anchors = {anchor for page in site for anchor in re.findall(r'id="(ser_personal\.[\w.]+)"', page)}
    assert {f"ser_personal.{name}" for name in ser_personal.__all__} <= anchors
    source = (REPOSITORY / "docs" / "reference" / "commands.md").read_text(encoding="utf-8")
    functions = re.findall(r"^## ser (\w+)\n\n::: (\S+)", source, flags=re.MULTILINE)
    homes = {name: f"ser_personal.{command.function}".replace(":", ".") for name, command in COMMANDS.items()}
    assert dict(functions) == homes


def test_no_page_or_style_asks_the_network_for_anything(site):
    assert [found for text in site for found in REQUESTED.findall(text)] == []
