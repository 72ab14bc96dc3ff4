from __future__ import annotations

import json
import re
import shlex
import shutil
import tomllib
from pathlib import Path

import pytest
from command_line import REPOSITORY, stage
from fenced_blocks import PAGES, SHELLS, blocks, command_lines, show_files

from ser_personal.cli import COMMANDS, STAGES, check_before_imports, parse
from ser_personal.config_files import read_configs, values_of, with_found_configs

WITH_PYTHON = [page for page in PAGES if any(block.language == "python" for block in blocks(page))]
WITH_COMMANDS = [page for page in PAGES if any(block.language in SHELLS for block in blocks(page))]
MAKE_TARGETS = re.findall(r"^([a-z]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
EXTRAS = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]


@pytest.mark.parametrize("page", WITH_PYTHON)
def test_python_runs_from_the_top_of_the_page_to_its_end(page, desk):
    show_files(page, desk)
    names: dict[str, object] = {"__name__": "__main__"}
    for block in blocks(page):
        if block.language == "python" and block.title is None:
            exec(compile(block.code, block.where, "exec"), names)  # noqa: S102


@pytest.fixture(scope="module")
def seen() -> set[tuple[str, ...]]:
    return set()


@pytest.mark.parametrize("page", WITH_COMMANDS)
def test_command_lines_parse(page, desk, seen, monkeypatch):
    # what the shipped configs name is instantiated by their own tests
    monkeypatch.setattr("ser_personal.stages.stage_cli.StageCLI.instantiate_classes", lambda _: None)
    monkeypatch.setattr("ser_personal.stages.stage_cli.StageCLI._run_subcommand", lambda *_: None)
    # the command line is what is looked at, not whether an optional package is installed
    monkeypatch.setattr("ser_personal.stages.stage_cli.find_spec", lambda name: name)
    show_files(page, desk)
    for where, words in command_lines(page, desk):
        if tuple(words) in seen:
            continue
        seen.add(tuple(words))
        leave_checkpoints(words, desk)
        try:
            understand(words)
        except Exception as error:
            raise AssertionError(f"{where}: {shlex.join(words)}") from error


def leave_checkpoints(words: list[str], desk: Path) -> None:
    """Put checkpoints where the fits of a page would have left them."""
    for path in values_of(["--ckpt_path"], words):
        if not (desk / path).exists():
            (desk / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(desk / ("papt.ckpt" if "apt" in Path(path).stem else "finetune.ckpt"), desk / path)


def understand(words: list[str]) -> None:
    """Parse what is ours to parse, and run nothing."""
    program, *rest = words if words[0] != "ser" else with_found_configs(words)
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


NOTEBOOKS = sorted((REPOSITORY / "docs" / "notebooks").glob("*.ipynb"))


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
