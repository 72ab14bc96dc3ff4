"""What the journal of `ser annotate` costs, whether rows are few or many.

    python benchmarks/journal.py

Rows of invented values of three attributes, added 256 recordings at a time as the command does, a speaker's recordings
one after the other (as in a table) or all speakers by turns.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from record import record

from ser_personal.annotation.journal import Journal
from ser_personal.recognition.profiles import SpeakerProfile
from ser_personal.recognition.recordings import Recording

AT_ONCE = 256


def main() -> None:
    """Write a journal, time each quarter of it, print and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000, help="one a recording")
    parser.add_argument("--speakers", type=int, default=10_000, help="of the rows")
    parser.add_argument("--dim", type=int, default=768, help="of a speaker's vector")
    parser.add_argument("--by_turns", action="store_true", help="speakers alternate")
    arguments = parser.parse_args()
    per_speaker = arguments.rows // arguments.speakers
    vector, value = np.ones(arguments.dim), np.ones(3)
    quarters: list[float] = []
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal(Path(folder) / "predictions.csv.partial", {"model": "invented"}, range(arguments.rows))
        for first in range(0, arguments.rows, AT_ONCE):
            numbers = range(first, min(first + AT_ONCE, arguments.rows))
            recordings, outcomes = [], []
            for number in numbers:
                speaker = number % arguments.speakers if arguments.by_turns else number // per_speaker
                name = f"speaker {speaker}"
                profile = journal.profiles.get(name) or SpeakerProfile.empty(arguments.dim, 3)
                journal.profiles[name] = profile.add(vector, value, None, number)
                recordings.append(Recording(f"recordings/{number:07}.wav", Path(), name))
                outcomes.append([(row(number, name), None)])
            journal.add(recordings, outcomes)
            if numbers[-1] + 1 >= arguments.rows * (len(quarters) + 1) // 4:
                quarters.append(time.perf_counter() - started)
        size = journal.path.stat().st_size
        wrote = time.perf_counter() - started
        count = sum(1 for _ in journal.rows())
        read = time.perf_counter() - started - wrote
        journal.close()
    assert count == arguments.rows
    parts = ", ".join(f"{after - before:.0f}" for before, after in zip([0.0, *quarters], quarters, strict=False))
    result = (
        f"{arguments.rows} rows of {arguments.speakers} speakers{' by turns' if arguments.by_turns else ''}: "
        f"written in {wrote:.0f} s (quarters {parts} s), read in {read:.0f} s, {size / 2**20:.0f} MiB, "
        f"{size / arguments.rows:.0f} bytes and {1e6 * wrote / arguments.rows:.0f} us a row"
    )
    print(result)
    record(result, ("numpy", "safetensors"))


def row(number: int, speaker: str) -> dict[str, str | float | int | None]:
    """A row as `ser annotate` has it."""
    names = [
        f"{attribute}_{kind}" for attribute in ("arousal", "valence", "dominance") for kind in ("raw", "calibrated")
    ]
    ends = [f"{attribute}_{kind}" for attribute in ("arousal", "valence", "dominance") for kind in ("low", "high")]
    values = dict.fromkeys([*names, *ends], 4.123456)
    place: dict[str, str | float | int | None] = {
        "speaker": speaker,
        "start": 0.0,
        "end": 4.5,
        "file": f"recordings/{number:07}.wav",
    }
    return {**place, **values, "calibration_utterances": number}


if __name__ == "__main__":
    main()
