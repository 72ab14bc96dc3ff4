from __future__ import annotations

import re
import tomllib

import pytest
from command_line import REPOSITORY, stage
from fenced_blocks import PAGES, blocks, command_lines, show_files

from ser_personal.arguments import parse
from ser_personal.cli import COMMANDS, STAGES, check_before_imports, read_configs

WITH_PYTHON = [page for page in PAGES if any(block.language == "python" for block in blocks(page))]
WITH_COMMANDS = [page for page in PAGES if command_lines(page)]
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
    monkeypatch.setattr("ser_personal.stages.StageCLI._run_subcommand", lambda *_: None)
    show_files(page, desk)
    for where, words in command_lines(page).items():
        if tuple(words) not in seen:
            seen.add(tuple(words))
            try:
                understand(words)
            except Exception as error:
                raise AssertionError(f"{where}: {' '.join(words)}") from error


def understand(words: list[str]) -> None:
    """Parse what is ours to parse, instantiate what it names, and run nothing."""
    program, *rest = words
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
