"""Kills every stage many times, at moments spread over the run, and says what came of it.

make soak
make soak KILLS=200
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]

from kill_stages import SLOW_STAGES, STAGES
from killing import survives, unbroken
from rich.console import Console
from rich.table import Table

from ser_personal.corpus.synthetic import synth
from ser_personal.pretrain.kmeans import PseudoLabelData, kmeans


def main() -> int:
    arguments = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    arguments.add_argument("--kills", type=int, default=50, help="of each stage")
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--stages", nargs="+", choices=(every := STAGES | SLOW_STAGES), default=list(STAGES))
    given = arguments.parse_args()
    table = Table("stage", "kills", "by the clock", "before a change to a file", "other results", "seconds")
    console = Console()
    failures = 0
    with tempfile.TemporaryDirectory() as root:
        corpus, labels = Path(root) / "corpus", Path(root) / "pseudo_labels"
        synth(str(corpus), speakers=12, utterances=6, min_seconds=1.0, max_seconds=2.0)
        kmeans(PseudoLabelData(str(corpus)), out=str(labels), num_clusters=12, iterations=10)
        for name in given.stages:
            started, stage = time.perf_counter(), every[name](corpus, labels)
            whole = unbroken(stage, Path(root) / name / "unbroken")
            rng = random.Random(f"{given.seed} {name}")
            outcomes: Counter[str] = Counter()
            for kill in range(given.kills):
                folder = Path(root) / name / f"{kill}"
                try:
                    moment = survives(stage, whole, folder, rng, share=(kill + rng.random()) / given.kills)
                except AssertionError as failure:
                    outcomes["failure"] += 1
                    console.print(f"{name}, kill {kill}: {failure}", markup=False)
                else:
                    outcomes["clock" if moment.change is None else "change"] += 1
            failures += outcomes["failure"]
            seconds = f"{time.perf_counter() - started:.0f}"
            counts = (outcomes.total(), outcomes["clock"], outcomes["change"], outcomes["failure"])
            table.add_row(name, *map(str, counts), seconds)
    console.print(table)
    return 1 if failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
