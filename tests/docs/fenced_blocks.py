"""Code that the documentation shows: every fenced block of every page, and what its shell blocks call."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

from command_line import REPOSITORY

if TYPE_CHECKING:
    from pathlib import Path

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


@dataclass(frozen=True)
class Block:
    """One fenced block.

    Attributes:
        where: page and line.
        language: "" where the fence names none.
        title: name of the file that it shows, None where it shows none.
        code: without the fences.
    """

    where: str
    language: str
    title: str | None
    code: str


def blocks(page: str) -> list[Block]:
    text = (REPOSITORY / page).read_text(encoding="utf-8")
    found = []
    for fence in FENCE.finditer(text):
        language, _, rest = fence["info"].strip().partition(" ")
        title = TITLE.search(rest)
        code = re.sub(rf"^{fence['indent']}", "", fence["code"], flags=re.MULTILINE)
        line = text[: fence.start()].count("\n") + 2
        found.append(Block(f"{page}:{line}", language, title and title[1], code))
    return found


def show_files(page: str, folder: Path) -> None:
    """Write the files that a page shows, whole, into a folder."""
    for block in blocks(page):
        if block.title is not None:
            (folder / block.title).parent.mkdir(parents=True, exist_ok=True)
            (folder / block.title).write_text(block.code, encoding="utf-8")


def command_lines(page: str, folder: Path) -> list[tuple[str, list[str]]]:
    """Each command of a page's shell blocks, in order: where its block stands, and its words as a shell reads them."""
    found = []
    for block in blocks(page):
        if block.language in SHELLS and STARTS.search(block.code):
            script = block.code.replace(" ... ", f" {USUAL_TEST} ")
            found += [(block.where, shlex.split(line)) for line in _what_a_shell_calls(script, folder)]
    return found


def _what_a_shell_calls(script: str, folder: Path) -> list[str]:
    """Run a script in a shell that finds no program and writes down what it was asked for."""
    bash = shutil.which("bash")
    assert bash is not None
    calls = folder / ".calls"
    calls.unlink(missing_ok=True)
    environment = {"PATH": "/nowhere", "CALLS": str(calls), "SLURM_ARRAY_TASK_ID": "0"}
    subprocess.run([bash, "-c", RECORDER + script], cwd=folder, env=environment, check=True, timeout=600)
    return calls.read_text(encoding="utf-8").splitlines() if calls.exists() else []
