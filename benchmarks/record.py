"""Appends what a benchmark measured to RESULTS.md, with the machine and the versions it was measured on."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

RESULTS = Path(__file__).with_name("RESULTS.md")
HEADER = """# Measured

Each row is one run of a benchmark in this folder; run it again to add yours.

| date | benchmark | result | machine | versions | command |
|---|---|---|---|---|---|
"""


def record(result: str, packages: tuple[str, ...] = ("torch", "torchaudio"), path: Path = RESULTS) -> None:
    """Append a row.

    Args:
        result: what was measured, in a few words.
        packages: whose versions matter.
        path: the table, begun where missing.
    """
    versions = ", ".join([f"Python {platform.python_version()}", *(f"{name} {version(name)}" for name in packages)])
    command = shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])
    cells = [
        datetime.now(UTC).date().isoformat(), Path(sys.argv[0]).stem, result, machine(), versions, f"`{command}`"
    ]  # fmt: skip
    if not path.exists():
        path.write_text(HEADER)
    with path.open("a") as file:
        file.write(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |\n")


def machine() -> str:
    """Name processor, cores, and how busy they have been with anything in the last minute (the load average)."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    model = next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor()
    )
    return f"{model or platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
