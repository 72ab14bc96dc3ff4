"""Runs of the grid, some at a time, each after those that it needs."""

from __future__ import annotations

import time
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ser_personal.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ser_personal.study.processes import Runner
    from ser_personal.study.progress import Progress
    from ser_personal.study.run_folder import RunFolder

Outcome = Literal["done", "kept", "failed", "blocked"]


@dataclass(frozen=True)
class Ended:
    """How a run ended.

    Attributes:
        outcome: done now, kept from before, failed, or blocked by one that it needs.
        reason: why it failed or was blocked.
        seconds: that it took now.
    """

    outcome: Outcome
    reason: str = ""
    seconds: float = 0.0

    @property
    def is_whole(self) -> bool:
        """Whether what it makes is there."""
        return self.outcome in {"done", "kept"}


def run_all(folders: Sequence[RunFolder], runner: Runner, jobs: int, progress: Progress) -> dict[str, Ended]:
    """Run what isn't whole; -> folder of each run -> how it ended. A failure stops only the runs that need it."""
    ended: dict[str, Ended] = {}
    waiting = list(folders)
    at_work: dict[Future[Ended], RunFolder] = {}
    with ThreadPoolExecutor(jobs) as pool:
        try:
            while waiting or at_work:
                for folder in list(waiting):
                    now = _decided(folder, ended)
                    if now is not None:
                        waiting.remove(folder)
                        ended[folder.run.folder] = now
                        progress.end(folder, now)
                    elif len(at_work) < jobs and all(need in ended for need in folder.run.needs):
                        waiting.remove(folder)
                        at_work[pool.submit(_run, folder, runner, progress)] = folder
                if not at_work:
                    continue
                finished, _ = wait(at_work, return_when=FIRST_COMPLETED)
                for future in finished:
                    folder = at_work.pop(future)
                    ended[folder.run.folder] = future.result()
                    progress.end(folder, future.result())
        except BaseException:
            # the pool waits for its threads, and they for their processes
            runner.stop()
            raise
    return ended


def _decided(folder: RunFolder, ended: dict[str, Ended]) -> Ended | None:
    """How a run has ended without being run, None where it has to be."""
    broken = next((need for need in folder.run.needs if need in ended and not ended[need].is_whole), None)
    if broken is not None:
        return Ended("blocked", f"it needs {broken}, which failed")
    return Ended("kept") if folder.is_whole() else None


def _run(folder: RunFolder, runner: Runner, progress: Progress) -> Ended:
    started = time.perf_counter()
    folder.prepare()
    for stage in folder.run.stages:
        if folder.stage_cost(stage) is not None:
            continue
        progress.begin(folder, stage)
        flags = folder.clear(stage)
        code, measured = runner.run([*folder.words(stage), *flags], folder.log)
        if code != 0:
            return Ended("failed", folder.last_line(), time.perf_counter() - started)
        folder.finish_stage(stage, measured)
    try:
        folder.finish()
    except UserError as error:
        return Ended("failed", str(error), time.perf_counter() - started)
    return Ended("done", seconds=time.perf_counter() - started)
