"""How long `ser --help` takes, and `ser fit --help` against a bare import of Lightning's CLI.

    python benchmarks/start_up.py

The two take turns, and the ratio is the median over the turns.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

from record import record

SER = str(Path(sys.executable).with_name("ser"))
BARE = [sys.executable, "-c", "from lightning.pytorch.cli import LightningCLI"]


def main() -> None:
    """Measure, print and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=5, help="counted runs of each command")
    turns = parser.parse_args().turns
    seconds([SER, "fit", "--help"])
    overview = [seconds([SER, "--help"]) for _ in range(turns)]
    pairs = [(seconds([SER, "fit", "--help"]), seconds(BARE)) for _ in range(turns)]
    ratio = median(ours / bare for ours, bare in pairs)
    result = (
        f"`ser --help` {median(overview):.2f} s; `ser fit --help` {median(ours for ours, _ in pairs):.1f} s, "
        f"{ratio:.2f} x the bare import of its CLI ({median(bare for _, bare in pairs):.1f} s), medians of {turns}"
    )
    print(result)
    record(result, ("torch", "lightning", "jsonargparse"))


def seconds(command: list[str]) -> float:
    """Wall time of a command."""
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
