"""Memory and time to the first row of `ser annotate`, of a recording of hours against one of a minute.

    python benchmarks/long_recording.py bundle

Recordings are 48 kHz stereo of bursts of noise, in a sparse file; each is annotated by a process of its own.
"""

from __future__ import annotations

import argparse
import os
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
from record import record

RATE, CHANNELS, BYTES = 48_000, 2, 2


class Measured(NamedTuple):
    """Of a run: peak of resident memory, MiB, its time, and the time until its journal held a row, seconds."""

    peak: float
    seconds: float
    first_row: float


def main() -> None:
    """Annotate both, print what they took and record it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", help="folder that `ser export` wrote")
    parser.add_argument("--hours", type=float, default=4.0, help="of the long recording")
    parser.add_argument("--every", type=float, default=60.0, help="seconds from one burst of 3 s to the next")
    parser.add_argument("--cut", default="energy", help="as of `ser annotate`")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        runs = []
        for name, seconds in (("minute", 60.0), ("hours", arguments.hours * 3600)):
            write(Path(folder) / f"{name}.wav", seconds, arguments.every)
            runs.append(annotate(Path(folder) / f"{name}.wav", arguments.bundle, arguments.cut))
    short, long = runs
    result = (
        f"{arguments.hours:g} h of 48 kHz stereo need {long.peak - short.peak:.0f} MiB more than 1 min "
        f"({long.peak:.0f}, {short.peak:.0f} MiB at most); the first row after {long.first_row:.0f} s of "
        f"{long.seconds:.0f} s ({short.first_row:.0f} s, {short.seconds:.0f} s); --cut {arguments.cut}"
    )
    print(result)
    record(result, ("torch",))


def write(path: Path, seconds: float, every: float) -> None:
    """A WAV of silence, which takes no room on the disk, with bursts of 3 s of noise in syllables."""
    samples = int(seconds * RATE)
    size = samples * CHANNELS * BYTES
    times = np.arange(3 * RATE)
    noise = np.random.default_rng(0).normal(0, 3000, len(times)) * np.sin(np.pi * times / (0.2 * RATE)) ** 2
    burst = np.repeat(noise.astype("<i2"), CHANNELS).tobytes()
    with path.open("wb") as file:
        head = struct.pack("<HHIIHH", 1, CHANNELS, RATE, RATE * CHANNELS * BYTES, CHANNELS * BYTES, 8 * BYTES)
        file.write(b"RIFF" + struct.pack("<I", 36 + size) + b"WAVEfmt " + struct.pack("<I", 16) + head)
        file.write(b"data" + struct.pack("<I", size))
        for start in np.arange(5.0, seconds - 4, every):
            file.seek(44 + int(start * RATE) * CHANNELS * BYTES)
            file.write(burst)
        file.truncate(44 + size)


def annotate(path: Path, bundle: str, cut: str) -> Measured:
    """Annotate a recording in a process of its own."""
    out = path.with_suffix(".csv")
    journal = out.with_name(f"{out.name}.partial")
    ser = str(Path(sys.executable).with_name("ser"))
    command = [ser, "annotate", str(path), "--model", bundle, "--out", str(out), "--cut", cut]
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    first_row, status, usage = 0.0, 0, None
    while usage is None or usage.ru_maxrss == 0:
        done, status, usage = os.wait4(process.pid, os.WNOHANG)
        if done:
            break
        if not first_row and journal.exists() and has_row(journal):
            first_row = time.perf_counter() - started
        time.sleep(0.5)
        usage = None
    seconds = time.perf_counter() - started
    if status:
        raise SystemExit(f"{' '.join(command)} failed")
    return Measured(usage.ru_maxrss / 1024, seconds, first_row or seconds)


def has_row(journal: Path) -> bool:
    """Tell whether a journal, which the process that writes it keeps to itself, holds a row."""
    return b'"start"' in journal.read_bytes()


if __name__ == "__main__":
    main()
