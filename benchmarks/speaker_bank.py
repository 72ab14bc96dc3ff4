"""Memory of building the speaker bank: sums against every utterance's vector, on made-up batches.

    python benchmarks/speaker_bank.py

Each side runs in its own process. Memory is the growth of the process's peak resident size (Linux only).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from record import record

from ser_personal.speakers.bank import SpeakerBank, SpeakerBankBuilder

ATTRIBUTES = ("arousal", "valence", "dominance")
DIM, SPEAKERS, BATCH = 1024, 3000, 100


def main() -> None:
    """Measure both sides, print the ratio and record it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--utterances", type=int, default=250_000, help="counted in by sums; by vectors a tenth of them"
    )
    parser.add_argument("--side", choices=["sums", "vectors"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        print(json.dumps(measure(arguments.side, arguments.utterances)))
        return
    sums, vectors = (run_side("sums", arguments.utterances), run_side("vectors", arguments.utterances // 10))
    ratio = 10 * vectors["mebibytes"] / sums["mebibytes"]
    result = (
        f"{sums['mebibytes']:.0f} MiB more for {arguments.utterances} utterances of width {DIM} by sums, "
        f"{vectors['mebibytes']:.0f} MiB for a tenth of them by vectors: {ratio:.0f} x less; "
        f"{1e6 * sums['seconds'] / arguments.utterances:.0f} us an utterance; {SPEAKERS} speakers"
    )
    print(result)
    assert sums["mebibytes"] < 1024
    record(result, ("numpy",))


def run_side(side: str, utterances: int) -> dict[str, float]:
    """Measure one side in a fresh process."""
    command = [sys.executable, __file__, "--side", side, "--utterances", str(utterances)]
    measured: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return measured


def measure(side: str, utterances: int) -> dict[str, float]:
    """Count in batches as a model makes them."""
    rng = np.random.default_rng(0)
    pooled = rng.normal(size=(BATCH, DIM)).astype(np.float32)
    before = peak_mebibytes()
    started = time.perf_counter()
    builder = SpeakerBankBuilder(ATTRIBUTES)
    kept: list[tuple[list[str], np.ndarray, np.ndarray]] = []
    for _ in range(utterances // BATCH):
        speaker_ids = [f"s{speaker}" for speaker in rng.integers(0, SPEAKERS, BATCH)]
        labels = rng.uniform(1, 7, (BATCH, len(ATTRIBUTES)))
        if side == "sums":
            builder.add(speaker_ids, pooled, labels)
        else:
            kept.append((speaker_ids, pooled.copy(), labels))
    if side == "sums":
        bank = builder.build()
    else:
        ids = [speaker_id for batch in kept for speaker_id in batch[0]]
        pooled, labels = (np.concatenate([batch[column] for batch in kept]) for column in (1, 2))
        bank = SpeakerBank.from_utterances(ids, pooled, labels, ATTRIBUTES)
    assert bank.count.sum() == utterances // BATCH * BATCH * len(ATTRIBUTES)
    return {"mebibytes": peak_mebibytes() - before, "seconds": time.perf_counter() - started}


def peak_mebibytes() -> float:
    """Return the peak of the resident size so far."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


if __name__ == "__main__":
    main()
