"""`ser study`: the grid of a YAML, run, resumed and compared."""

from __future__ import annotations

import fcntl
import json
import multiprocessing
import os
import resource
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress

from ser_personal.calibration.run_files import PREDICTIONS, SPEAKER_MOMENTS, write_json
from ser_personal.errors import UserError
from ser_personal.files import atomic_write, content_hash
from ser_personal.report.compare import (
    DONE,
    PretrainingScores,
    RunRecord,
    StageCost,
    read_record,
    read_stage,
    write_stage,
)
from ser_personal.report.formatting import duration
from ser_personal.study.grid import ROOT, PersonalizationGap, Preparation, Recipe, Study, expand
from ser_personal.types import Attribute

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from multiprocessing.context import ForkServerProcess
    from types import TracebackType

    import pandas as pd

    from ser_personal.study.grid import GridRun, Stage

NAME = "study"


def study(
    out: str,
    corpus: str,
    recipes: list[Recipe],
    prepare: list[Preparation] | None = None,
    seeds: tuple[int, ...] = (0,),
    folds: int | None = None,
    validation_folds: int = 1,
    personalization_gap: PersonalizationGap | None = None,
    attributes: tuple[Attribute, ...] | None = None,
    baseline: str | None = None,
    fit_configs: tuple[str, ...] = ("configs/cost.yaml",),
    test_configs: tuple[str, ...] = ("configs/pldc.yaml", "configs/cost.yaml"),
    jobs: int = 1,
    devices: int = 1,
    min_utterances: int = 10,
    *,
    paper: bool = False,
) -> int:
    """Train and test every recipe with every seed, each run in its own folder, and compare them.

    Killed at any time and run again, it keeps what is whole and goes on with the rest. A run is whole as long as its
    commands, the YAMLs that they name and the steps that it uses stay the same.

    Args:
        out: the study's folder.
        corpus: what {whole_corpus} stands for, and {corpus} where there are no folds; may name a step, such as {synth}.
        recipes: to compare.
        prepare: steps that recipes share, each after those that it refers to.
        seeds: of each recipe.
        folds: leave-speakers-out folds of the corpus, each trained and tested by itself; None keeps its own splits.
        validation_folds: folds that validate, of those that don't test.
        personalization_gap: train with the test speakers among the training speakers and without, at equal size.
        attributes: train a model for each of them, as the paper does; None leaves them to the configs.
        baseline: recipe, or recipe/calibration, that the others are held against.
        fit_configs: YAMLs behind those of every fit.
        test_configs: YAMLs behind those of every test.
        jobs: runs at a time, which share the cores.
        devices: of each run; more than one take one job.
        min_utterances: labelled utterances a speaker must have to count in A-CCC.
        paper: put the paper's rows beside.

    Returns:
        1 where a run failed, else 0.

    Raises:
        UserError: the study contradicts itself, names what doesn't exist, or is at work in this folder already.
    """
    from ser_personal.calibration.run_files import write_json
    from ser_personal.report.compare import compare

    wanted = Study(
        corpus=corpus,
        recipes=tuple(recipes),
        prepare=tuple(prepare or ()),
        seeds=tuple(seeds),
        folds=folds,
        validation_folds=validation_folds,
        personalization_gap=personalization_gap,
        attributes=attributes,
        baseline=baseline,
        fit_configs=tuple(fit_configs),
        test_configs=tuple(test_configs),
        jobs=jobs,
        devices=devices,
        min_utterances=min_utterances,
        paper=paper,
    )
    root = Path(out).absolute()
    runs = expand(wanted)
    hashes = hash_inputs(runs)
    folders = [RunFolder(root, run, hashes[run.folder]) for run in runs]
    with _only_one(root) as lock:
        write_json(root / f"{NAME}.json", asdict(wanted))
        with Progress(len(runs)) as progress:
            ended = run_all(folders, _runner(wanted, lock), jobs, progress)
        whole = [each for each in folders if each.run.kind == "recipe" and ended[each.run.folder].is_whole]
        if whole:
            join_predictions(whole)
            # what there is to see without the baseline is still worth seeing
            is_there = str(baseline).partition("/")[0] in {each.run.name for each in whole}
            paths = [str(each.path) for each in whole]
            compare(paths, baseline if is_there else None, str(root), NAME, min_utterances, paper=paper)
    return int(not all(each.is_whole for each in ended.values()))


def _runner(wanted: Study, lock: int) -> Runner:

    if wanted.devices > 1:
        return SubprocessRunner(lock)
    return ForkRunner(threads=max(1, len(os.sched_getaffinity(0)) // wanted.jobs))


@contextmanager
def _only_one(root: Path) -> Iterator[int]:
    """Keep another study out of the folder, and yield the lock's descriptor; it goes with the process."""
    root.mkdir(parents=True, exist_ok=True)
    with (root / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                "another study, or a run that one left, is at work in this folder",
                where=root,
                remedy="Wait for it or end it, or give --out another folder",
            ) from error
        yield lock.fileno()


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


class Progress:
    """Lines of runs, and a bar over all of them.

    Args:
        runs: how many there are.
    """

    def __init__(self, runs: int) -> None:
        self._shown = RichProgress(
            SpinnerColumn(finished_text=" "),
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=Console(highlight=False, soft_wrap=True),
            transient=True,
        )
        self._all = self._shown.add_task("all runs", total=runs)
        self._lines: dict[str, TaskID] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        self._shown.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._shown.stop()

    def begin(self, folder: RunFolder, stage: Stage) -> None:
        """Show a run's stage at work."""
        done = [each.name for each in folder.run.stages].index(stage.name)
        text = f"{escape(folder.run.title)}: {stage.name}"
        with self._lock:
            line = self._lines.get(folder.run.folder)
            if line is None:
                self._lines[folder.run.folder] = self._shown.add_task(
                    text, total=len(folder.run.stages), completed=done
                )
            else:
                self._shown.update(line, description=text, completed=done)

    def end(self, folder: RunFolder, ended: Ended) -> None:
        """Put how a run ended in the place of its line."""
        title = escape(folder.run.title)
        with self._lock:
            line = self._lines.pop(folder.run.folder, None)
            if line is not None:
                self._shown.remove_task(line)
            self._shown.advance(self._all)
        say = self._shown.console.print
        if ended.outcome == "done":
            say(f"[green]done[/]    {title} ({duration(ended.seconds)})")
        elif ended.outcome == "kept":
            say(f"[dim]kept    {title}[/]")
        elif ended.outcome == "blocked":
            say(f"[yellow]blocked[/] {title}: {escape(ended.reason)}")
        else:
            say(f"[red]failed[/]  {title}: {escape(ended.reason)}")
            say(f"        its log: {escape(str(folder.log))}")


INPUTS, LOG = "inputs.json", "log.txt"
# commands that go on where they stopped, and would rather find what they had made
_GO_ON = {"kmeans", "cache"}


def hash_inputs(runs: Sequence[GridRun]) -> dict[str, str]:
    """Folder of each run -> hash of its commands, its YAMLs' contents and the inputs of what it needs.

    Audio and tables that the commands name by path are not read: after a change to those, delete the runs.

    Raises:
        UserError: a YAML is missing.
    """
    hashes: dict[str, str] = {}
    for run in runs:
        content = {
            "words": [stage.words for stage in run.stages],
            "configs": [_read(path) for stage in run.stages for path in stage.configs],
            "needs": [hashes[folder] for folder in run.needs],
        }
        hashes[run.folder] = content_hash(json.dumps(content))
    return hashes


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(
            "no such config file", where=path, remedy="Paths are as `ser fit --config` takes them: from where you are"
        ) from error


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run.

    Attributes:
        root: the study's folder.
        run: of the grid.
        inputs: its hash.
    """

    root: Path
    run: GridRun
    inputs: str

    @property
    def path(self) -> Path:
        """Where it lies."""
        return self.root / self.run.folder

    @property
    def log(self) -> Path:
        """What the run's commands print."""
        return self.path / LOG

    def is_whole(self) -> bool:
        """Whether the run has ended, with these inputs."""
        return (self.path / DONE).is_file() and read_record(self.path).inputs == self.inputs

    def prepare(self) -> None:
        """Keep what was made of the same inputs, clear away anything else, and write down what will be run."""
        if self._begun_with() == self.inputs:
            return
        shutil.rmtree(self.path, ignore_errors=True)
        self.path.mkdir(parents=True)
        commands = [["ser", *self.words(stage)] for stage in self.run.stages]
        write_json(self.path / INPUTS, {"inputs": self.inputs, "commands": commands})

    def _begun_with(self) -> str | None:
        path = self.path / INPUTS
        return str(json.loads(path.read_text(encoding="utf-8"))["inputs"]) if path.is_file() else None

    def words(self, stage: Stage) -> list[str]:
        """The command line behind `ser`."""
        return [word.replace(ROOT, str(self.root)) for word in stage.words]

    def stage_cost(self, stage: Stage) -> StageCost | None:
        """What a stage cost; None where it isn't whole."""
        path = self.path / f"{stage.name}.json"
        return read_stage(path) if path.is_file() else None

    def clear(self, stage: Stage) -> list[str]:
        """Clear away what a broken stage left, but what it can go on from; -> flags to go on with."""
        out = self.root / stage.out
        if stage.name == "fit":
            last = next(iter(sorted(out.glob("*-last.ckpt"))), None)
            if last is not None and _is_readable(last):
                return ["--ckpt_path", str(last)]
        if stage.name not in _GO_ON:
            shutil.rmtree(out, ignore_errors=True)
        return []

    def finish_stage(self, stage: Stage, measured: Mapping[str, float]) -> None:
        """Write down what a stage cost: what its process measured, and what the stage itself recorded."""
        recorded = self.root / stage.out / f"{stage.name}_cost.json"
        own = json.loads(recorded.read_text(encoding="utf-8")) if recorded.is_file() else {}
        write_stage(self.path / f"{stage.name}.json", {"command": stage.name, **measured, **own})

    def finish(self) -> None:
        """Write done.json."""
        run = self.run
        found = sorted((self.root / run.stages[-1].out).rglob(SPEAKER_MOMENTS))
        if run.kind == "recipe" and not found:
            raise UserError(
                f"`ser {run.stages[-1].name}` left no {SPEAKER_MOMENTS}, by which recipes are compared",
                where=run.title,
                remedy="Give the study test_configs: [configs/pldc.yaml]",
            )
        costs = [cost for stage in run.stages if (cost := self.stage_cost(stage)) is not None]
        RunRecord(
            name=run.name,
            kind=run.kind,
            inputs=self.inputs,
            seed=run.seed,
            fold=run.fold,
            attribute=run.attribute,
            results=str(found[-1].parent.relative_to(self.path)) if found else None,
            needs=run.needs,
            stages=tuple(costs),
            training_speakers=run.training_speakers,
            side=run.side,
            pretraining=PretrainingScores.read(self.root / run.stages[-1].out),
        ).write(self.path)

    def last_line(self) -> str:
        """What the run said last."""
        text = self.log.read_text(encoding="utf-8", errors="replace") if self.log.is_file() else ""
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        return lines[-1] if lines else "it said nothing"


def _is_readable(checkpoint: Path) -> bool:
    from ser_personal.encoder.module import read_checkpoint

    try:
        read_checkpoint(checkpoint)
    except UserError:
        return False
    return True


def join_predictions(folders: Sequence[RunFolder]) -> None:
    """Write a table a recipe and seed, `joined/RECIPE-seed_0.csv`, with the fold of each utterance.

    Models of single attributes have tables of their own. Studies without folds have nothing to join.
    """
    import pandas as pd

    tables: dict[str, list[pd.DataFrame]] = {}
    for folder in folders:
        run = folder.run
        for path in sorted(folder.path.glob(f"test/**/{PREDICTIONS}")) if run.fold is not None else ():
            table = pd.read_csv(path, dtype={"utterance": str, "speaker": str}, float_precision="round_trip")
            name = "-".join([run.name, f"seed_{run.seed}", *([run.attribute] if run.attribute else [])])
            tables.setdefault(name, []).append(table.assign(fold=run.fold))
    for name, of_folds in tables.items():
        path = folders[0].root / "joined" / f"{name}.csv"
        atomic_write(path, pd.concat(of_folds).to_csv(index=False).encode())
