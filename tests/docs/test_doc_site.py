from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import pytest
from command_line import REPOSITORY

import ser_personal
from ser_personal.cli import COMMANDS

REQUESTED = re.compile(
    r"<(?:link|script|img|iframe)\b[^>]*?\b(?:href|src)=\"?(https?:[^\s\">]+)|url\([\"']?(https?:[^)]+)"
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole site, by `make docs`' own command: a broken link or reference fails."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    ran = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[str, str]:
    return {path.relative_to(site).as_posix(): path.read_text(encoding="utf-8") for path in site.rglob("*.html")}


def test_every_public_name_is_in_the_reference(pages):
    anchors = {anchor for page in pages.values() for anchor in re.findall(r'id="(ser_personal\.[\w.]+)"', page)}
    assert {f"ser_personal.{name}" for name in ser_personal.__all__} <= anchors


def test_every_command_is_in_the_reference(pages):
    headings = re.findall(r'<h2 id="ser-(\w+)"', pages["reference/commands.html"])
    assert headings == list(COMMANDS)
    source = (REPOSITORY / "docs" / "reference" / "commands.md").read_text(encoding="utf-8")
    functions = re.findall(r"^## ser (\w+)\n\n::: (\S+)", source, flags=re.MULTILINE)
    homes = {name: f"ser_personal.{command.function}".replace(":", ".") for name, command in COMMANDS.items()}
    assert dict(functions) == homes


def test_no_page_or_style_asks_the_network_for_anything(site, pages):
    styles = [path.read_text(encoding="utf-8") for path in site.rglob("*.css")]
    assert [found for text in [*pages.values(), *styles] for found in REQUESTED.findall(text)] == []


def test_formulas_of_pages_and_docstrings_are_drawn(pages):
    for name in ("concepts/papt.html", "concepts/pldc.html", "reference/finetuning.html", "reference/calibration.html"):
        assert '<math xmlns="http://www.w3.org/1998/Math/MathML" display="block">' in pages[name]
    assert not [name for name, page in pages.items() if "wzxhzdk" in page or ":math:" in page or ".. math::" in page]


def test_every_image_is_there(site, pages):
    for name, page in pages.items():
        for source in re.findall(r'<img[^>]*? src="([^"#]+)', page):
            assert (site / name).parent.joinpath(unquote(source)).is_file(), (name, source)
