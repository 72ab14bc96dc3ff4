"""Ways to run one `ser` command in a process of its own: forked from a warm one, or started anew."""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ser_personal.calibration.results import write_json

if TYPE_CHECKING:
    from collections.abc import Mapping
    from multiprocessing.context import ForkServerProcess

# what takes 10 to 20 s to import
WARM = ["ser_personal.stages.stage_cli"]
MEASURED = "process.json"
_RSS_UNIT = 1 if sys.platform == "darwin" else 1024


class Runner(Protocol):
    """Runs commands."""

    def run(self, words: list[str], log: Path) -> tuple[int, Mapping[str, float]]:
        """Run `ser WORDS`, its output appended to a log; -> exit code, and seconds, cpu_seconds and peak_memory."""

    def stop(self) -> None:
        """Kill what runs."""


class ForkRunner:
    """Forks each command from a server that has imported everything, so that none waits for imports.

    Args:
        threads: of each command.
    """

    def __init__(self, threads: int) -> None:
        self.threads = threads
        # read once, when the server loads its libraries
        os.environ["OMP_NUM_THREADS"] = str(threads)
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(WARM)
        self._running: set[ForkServerProcess] = set()

    def run(self, words: list[str], log: Path) -> tuple[int, Mapping[str, float]]:
        """Run `ser WORDS` in a fork."""
        measured = log.with_name(MEASURED)
        measured.unlink(missing_ok=True)
        process = self._context.Process(target=_in_fork, args=(words, str(log), str(measured), self.threads))
        process.start()
        self._running.add(process)
        process.join()
        self._running.discard(process)
        code = -1 if process.exitcode is None else process.exitcode
        return code, json.loads(measured.read_text()) if measured.is_file() else {}

    def stop(self) -> None:
        """Kill what runs."""
        for process in list(self._running):
            process.kill()


def _in_fork(words: list[str], log: str, measured: str, threads: int) -> None:
    import torch

    from ser_personal.cli import main

    _end_with_study()
    with Path(log).open("ab", buffering=0) as file:
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
    torch.set_num_threads(threads)
    sys.argv = ["ser", *words]
    started = time.perf_counter()
    code = main()
    used = resource.getrusage(resource.RUSAGE_SELF)
    write_json(Path(measured), _measure(time.perf_counter() - started, used))
    sys.exit(code)


def _end_with_study() -> None:
    """End when the study does, however it does: another one may take over the folder.

    The server is no help there: it lives as long as any of its forks.
    """
    study = multiprocessing.parent_process()
    assert study is not None, "runs in a fork alone"  # noqa: S101

    def watch() -> None:
        study.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


class SubprocessRunner:
    """Starts each command anew, as Lightning needs where it starts further processes by `sys.argv`.

    Args:
        lock: descriptor of the study's lock, which its commands hold with it, should it be killed before them.
    """

    def __init__(self, lock: int) -> None:
        self._lock = lock
        self._running: set[subprocess.Popen[bytes]] = set()

    def run(self, words: list[str], log: Path) -> tuple[int, Mapping[str, float]]:
        """Run `ser WORDS` in a new interpreter."""
        started = time.perf_counter()
        with log.open("ab") as file:
            process = subprocess.Popen(  # noqa: S603
                [sys.executable, "-m", "ser_personal.cli", *words],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                pass_fds=(self._lock,),
            )
        self._running.add(process)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        self._running.discard(process)
        return process.returncode, _measure(time.perf_counter() - started, used)

    def stop(self) -> None:
        """Kill what runs."""
        for process in list(self._running):
            process.kill()


def _measure(seconds: float, used: resource.struct_rusage) -> dict[str, float]:
    cpu_seconds = used.ru_utime + used.ru_stime
    return {"seconds": seconds, "cpu_seconds": cpu_seconds, "peak_memory": used.ru_maxrss * _RSS_UNIT}
