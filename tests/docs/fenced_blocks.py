"""Code that the documentation shows: every fenced block of every page, and the command lines in them."""

from __future__ import annotations

import re
import shlex
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
# what a dots' worth of arguments stands for
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


def command_lines(page: str) -> dict[str, list[str]]:
    """Where each command line of a page stands -> its words, without variables set before it and `srun`."""
    found = {}
    for block in blocks(page):
        if block.language in SHELLS:
            for number, line in enumerate(block.code.replace("\\\n", " ").splitlines()):
                words = shlex.split(line.replace(" ... ", f" {USUAL_TEST} "), comments=True)
                while words and ("=" in words[0] or words[0] == "srun"):
                    words = words[1:]
                if words:
                    found[f"{block.where}, command {number + 1}"] = words
    return found
