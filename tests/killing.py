"""Runs `ser` in processes of their own, and kills them without warning.

A process is forked off a server that has imported everything, so that it starts in no time. It dies by SIGKILL, which
nothing can catch: at a moment of the clock, or just before it opens, renames, truncates or removes its nth file.
"""

import multiprocessing
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from itertools import count
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from command_line import forkserver, ser
from lightning.fabric.plugins.environments.lightning import find_free_network_port
from numpy.typing import NDArray

Kept = bytes | NDArray[np.generic]
CHANGES = {"os.rename", "os.truncate", "os.remove"}
WRITING = os.O_WRONLY | os.O_RDWR
LONGEST = 600.0


class Stage(NamedTuple):
    arguments: Callable[[Path], list[str]]  # folder to write in -> `ser`'s, the same however often it is broken off
    result: Callable[[Path], dict[str, Kept]]  # folder -> what has to be the same as that of an unbroken run


class Unbroken(NamedTuple):
    result: dict[str, Kept]
    seconds: float
    changes: int  # that it made to files


def same(one: dict[str, Kept], two: dict[str, Kept]) -> bool:
    """Every byte, and numbers up to rounding."""
    pairs = ((one[key], two[key]) for key in one)
    equal = (a == b if isinstance(a, bytes) else np.allclose(a, b, rtol=0, atol=1e-6) for a, b in pairs)
    return one.keys() == two.keys() and all(equal)


def unbroken(stage: Stage, folder: Path) -> None:
    """Run a stage on the clock."""
    started = time.perf_counter()
    assert finish(stage, folder) == 0, output(folder)
    (folder / "seconds.txt").write_text(f"{time.perf_counter() - started}")


def survives(stage: Stage, whole: Unbroken, folder: Path, rng: random.Random, share: float) -> None:
    """Kill a run, by the clock or by changes to files, after a share of it, run it again, and compare."""
    by_clock = rng.random() < 0.5
    for attempt in count():
        moment = {"seconds": share * whole.seconds} if by_clock else {"change": 1 + int(share * whole.changes)}
        here = folder / f"{attempt}"
        if finish(stage, here, **moment) == -signal.SIGKILL:
            break
        # it was done before: today the machine is faster than it was for the unbroken run
        share *= 0.8
    assert finish(stage, here) == 0, output(here)
    assert same(stage.result(here), whole.result), f"killed at {moment}\n{output(here)}"


def finish(stage: Stage, folder: Path, seconds: float | None = None, change: int | None = None) -> int | None:
    """Run a stage, perhaps until it is killed, then or before its nth change to a file; -> its exit code."""
    process = start(stage.arguments(folder), folder, change)
    process.join(LONGEST if seconds is None else seconds)
    alive = process.is_alive()
    if alive:
        process.kill()
        process.join()
    assert not alive or seconds is not None, f"hangs\n{output(folder)}"
    return process.exitcode


def start(arguments: list[str], folder: Path, *interruption: Any, **options: Any) -> BaseProcess:
    """Run `ser` in a process of its own, with its output in output.txt, and interrupt it as `_run` says."""
    folder.mkdir(parents=True, exist_ok=True)
    process = forkserver().Process(target=_run, args=(arguments, folder, *interruption), kwargs=options)
    process.start()
    return process


def on_two(arguments, folder: Path, changes=(None, None), changing=None) -> list[int | None]:
    """Run `ser` in two processes, as torchrun starts them, each killed before its nth change; -> their exit codes."""
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(find_free_network_port()), "OMP_NUM_THREADS": "1"}
    words = [str(word) for word in arguments]
    ranks = [{**meeting, "LOCAL_RANK": str(rank)} for rank in range(2)]
    processes = [start(words, folder, *of, changing=changing) for of in zip(changes, ranks, strict=True)]
    for process in processes:
        process.join(LONGEST)
    assert "MEMBER: 2/2" in output(folder)
    return [process.exitcode for process in processes]


def output(folder: Path) -> str:
    return (folder / "output.txt").read_text()


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def _run(arguments, folder, change=None, environment=None, signals=(signal.SIGKILL,), changing=None) -> None:
    """Send these signals before the nth change to a file: one whose path contains `changing`, else of the folder."""
    os.environ |= environment or {}
    # as in conftest.py
    os.fsync = lambda _: None
    torch.set_num_threads(1)
    # the file, not Python's object alone: whatever prints, C++ included
    descriptor = os.open(folder / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    # what a process of a user's has; one from a fork server would take others from a server of its own
    multiprocessing.set_start_method("fork", force=True)
    # a shell without job control has what it starts in the background ignore Ctrl-C: the tests themselves, perhaps
    signal.signal(signal.SIGINT, signal.default_int_handler)
    seen = 0

    def count_changes(event: str, about: tuple[object, ...]) -> None:
        nonlocal seen
        writes = event == "open" and isinstance(about[2], int) and about[2] & WRITING
        if (writes or event in CHANGES) and (changing or str(folder)) in str(about[0]):
            seen += 1
            for signum in signals if seen == change else ():
                os.kill(os.getpid(), signum)

    sys.addaudithook(count_changes)
    code = ser(*arguments)
    (folder / "changes.txt").write_text(str(seen))
    sys.exit(code)
