"""`ser study`: run the grid of a YAML, resume it, and compare its recipes."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Literal, TypeVar

from filelock import FileLock, Timeout

from ser_personal.arguments import find_config, read_configs, values_of
from ser_personal.comparison.compare import compare
from ser_personal.comparison.runs import DONE, PRETRAINING_SCORES, RunRecord, duration, read_record, read_stage
from ser_personal.corpus.csv_corpus import open_corpus
from ser_personal.corpus.splits import first_few
from ser_personal.errors import UserError, counted
from ser_personal.evaluation.run_files import SPEAKER_MOMENTS, read_json
from ser_personal.files import content_hash, sampled_hash, write_json
from ser_personal.study.grid import ROOT, GridRun, Stage, Study, expand

NAME = "study"
INPUTS, LOG, LOCK, MEASURED = "inputs.json", "log.txt", ".lock", "process.json"
# 10 to 20 s of imports, once where processes can be forked
PRELOADED = ("ser_personal.stages.stage_cli",)
# commands that resume from their own output
RESUMABLE = {"kmeans", "cache"}
# what makes a step's batch
_BATCH = ("data.max_batch", "data.batch_seconds", "trainer.accumulate_grad_batches", "trainer.devices")
Found = TypeVar("Found")


def study(out: str, *, replace: bool = False, **settings: Any) -> int:
    """Train and test every recipe with every seed, each run in its own folder, and compare them.

    When it is interrupted and run again, it keeps complete runs and resumes the others. A run stays complete as long as
    its commands, the values of their YAMLs and the steps that it uses stay the same. A failure's exit code is 1.

    Args:
        out: the study's folder.
        replace: delete and repeat the runs whose commands, YAMLs or steps have changed.
        **settings: of `Study`.
    """
    grid = Study(**settings)
    root = Path(out).absolute()
    runs = expand(grid)
    hashes = hash_inputs(runs, grid.corpus)
    for note in unequal_batches(runs):
        print(f"ser study: {note}", file=sys.stderr)
    folders = [StudyRun(root, run, hashes[run.folder]) for run in runs]
    with locked(root):
        if not replace:
            refuse_to_replace(folders, root)
        write_json(root / f"{NAME}.json", asdict(grid))
        outcomes = run_all(folders, Launcher(grid.jobs), grid.jobs)
        complete = [each for each in folders if each.run.kind == "recipe" and outcomes[each.run.folder].is_complete]
        if complete:
            # without the baseline the others are still worth comparing
            has_baseline = str(grid.baseline).partition("/")[0] in {each.run.name for each in complete}
            baseline = grid.baseline if has_baseline else None
            compare([str(each.path) for each in complete], baseline, str(root), NAME, grid.min_utterances)
    return int(not all(outcome.is_complete for outcome in outcomes.values()))


def refuse_to_replace(folders: Sequence[StudyRun], root: Path) -> None:
    """Refuse to delete trained models of other inputs: complete runs, and runs with a checkpoint."""
    trained = []
    for each in folders:
        # where inputs.json is damaged, that run alone fails
        with suppress(UserError):
            if each.has_other_inputs and ((each.path / DONE).is_file() or any(each.path.rglob("*.ckpt"))):
                trained.append(each.run.title)
    if trained:
        what = f"would delete {counted(len(trained), 'run')} made with other settings or audio: {first_few(trained)}"
        raise UserError(what, where=root, remedy="Repeat them by `--replace true`, or give another --out")


@contextmanager
def locked(root: Path) -> Iterator[None]:
    """Keep other studies out of a folder, which is free again when this process ends, however it does."""
    root.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(root / LOCK, timeout=0):
            yield
    except Timeout as error:
        what = "another study is running in this folder"
        raise UserError(what, where=root, remedy="Wait for it, or stop it") from error


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    status: Literal["done", "kept", "failed", "blocked"]
    detail: str = ""  # why it failed or is blocked, or how long it took

    @property
    def is_complete(self) -> bool:
        """Whether its results exist."""
        return self.status in {"done", "kept"}


def run_all(folders: Sequence[StudyRun], launcher: Launcher, jobs: int) -> dict[str, Outcome]:
    """Run what isn't complete -> folder of each run -> its outcome. A failure stops only the runs that need it."""
    futures: dict[str, Future[Outcome]] = {}
    with ThreadPoolExecutor(jobs) as pool:
        try:
            for folder in folders:
                needs = {need: futures[need] for need in folder.run.needs}
                futures[folder.run.folder] = pool.submit(folder.complete, needs, launcher)
            for number, folder in enumerate(folders, 1):
                outcome = futures[folder.run.folder].result()
                detail = f" ({outcome.detail})" if outcome.detail else ""
                print(f"{number}/{len(folders)} {outcome.status:7} {folder.run.title}{detail}", flush=True)
                if outcome.status == "failed":
                    print(f"        its log: {folder.path / LOG}", flush=True)
        except BaseException:
            # the pool waits for its threads, and they for their processes
            pool.shutdown(wait=False, cancel_futures=True)
            launcher.stop()
            raise
    return {name: future.result() for name, future in futures.items()}


class Launcher:
    """Runs `ser` commands in separate processes, forked after the slow imports where the platform can fork."""

    def __init__(self, jobs: int, preloaded: Sequence[str] = PRELOADED) -> None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self.threads = max(1, cores // jobs)
        os.environ["OMP_NUM_THREADS"] = str(self.threads)  # libraries read it when they are loaded
        forks = "forkserver" in multiprocessing.get_all_start_methods()
        self._context: Any = multiprocessing.get_context("forkserver" if forks else "spawn")
        if forks:
            self._context.set_forkserver_preload(list(preloaded))
        self._running: set[BaseProcess] = set()
        self._stopped = False

    def run(self, argv: list[str], log: Path) -> tuple[int, Mapping[str, float]]:
        """Run `ser ARGV`, its output appended to a log -> exit code, and seconds and cpu_seconds if it ended."""
        if self._stopped:
            return -1, {}
        measured = log.with_name(MEASURED)
        measured.unlink(missing_ok=True)
        process = self._context.Process(target=_in_process, args=(argv, log, measured, self.threads))
        process.start()
        self._running.add(process)
        process.join()
        self._running.discard(process)
        return process.exitcode, _found(read_json, measured) or {}

    def stop(self) -> None:
        """Kill the running commands."""
        self._stopped = True
        for process in list(self._running):
            _kill_group(process.pid)
            process.kill()


def _kill_group(process: int | None) -> None:
    if process is not None and hasattr(os, "killpg"):
        with suppress(ProcessLookupError):
            os.killpg(process, signal.SIGKILL)


def _in_process(argv: list[str], log: Path, measured: Path, threads: int) -> None:
    if hasattr(os, "setsid"):
        os.setsid()
    threading.Thread(target=_end_with_study, daemon=True).start()
    with log.open("ab", buffering=0) as file:
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
    import torch

    from ser_personal.cli import main

    torch.set_num_threads(threads)
    # Lightning starts the processes of further devices by the name that stands first
    sys.argv = [sys.argv[0], *argv]
    started = time.perf_counter()
    code = main()
    write_json(measured, {"seconds": time.perf_counter() - started, "cpu_seconds": time.process_time()})
    sys.exit(code)


def _end_with_study() -> None:
    # another study may use the folder next
    study = multiprocessing.parent_process()
    if study is not None:
        study.join()
        _kill_group(os.getpid())
        os._exit(1)


def hash_inputs(runs: Sequence[GridRun], corpus: str) -> dict[str, str]:
    """Folder of each run -> hash of its commands, its YAMLs' values, labels and audio of the corpus, and what it needs.

    Other files that the commands name by path are not read: after a change to those, delete the runs.
    """
    of_corpus = _hash_corpus(corpus)
    contents = _config_contents(runs)
    hashes: dict[str, str] = {}
    for run in runs:
        content = {
            "argv": [stage.argv for stage in run.stages],
            "configs": [contents[name] for stage in run.stages for name in stage.configs],
            "corpus": of_corpus,
            "needs": [hashes[folder] for folder in run.needs],
        }
        hashes[run.folder] = content_hash(json.dumps(content, default=str))
    return hashes


def _config_contents(runs: Sequence[GridRun]) -> dict[str, dict[str, Any]]:
    paths = {name: str(find_config(name)) for run in runs for stage in run.stages for name in stage.configs}
    contents = read_configs([f"--config={path}" for path in paths.values()])
    return {name: contents[path] for name, path in paths.items()}


def unequal_batches(runs: Sequence[GridRun]) -> list[str]:
    """A line for each kind of model whose fits don't all see the same batch: their scores differ by that as well."""
    contents = _config_contents(runs)
    found: dict[object, dict[str, list[str]]] = {}
    fits = [(run.name, stage) for run in runs for stage in run.stages if stage.name == "fit"]
    for recipe, stage in fits:
        kind, *values = (_setting(stage, name, contents) for name in ("model.class_path", *_BATCH))
        batch = ", ".join(f"{name} {value}" for name, value in zip(_BATCH, values, strict=True) if value is not None)
        found.setdefault(kind, {}).setdefault(batch, []).append(recipe)
    return [
        f"{kind}: recipes differ in their batches, too, and scores with them: "
        + "; ".join(f"{', '.join(dict.fromkeys(names))} with {batch}" for batch, names in batches.items())
        for kind, batches in found.items()
        if len(batches) > 1
    ]


def _setting(stage: Stage, name: str, contents: Mapping[str, object]) -> object:
    """What a stage's last config, or a flag behind it, says of an argument; None where none does."""
    value: object = None
    for config in stage.configs:
        at: object = contents[config]
        for key in name.split("."):
            inside = at if isinstance(at, dict) else {}
            at = inside.get(key, inside.get("init_args", {}).get(key))
        value = value if at is None else at
    return next(reversed(values_of([f"--{name}"], stage.argv)), value)


def _hash_corpus(path: str) -> str:
    # one that a step of the study makes is among the inputs of what needs that step
    if not Path(path).exists():
        return ""
    corpus = open_corpus(path)
    audio = (each.path for each in corpus.read_labels() if each.path.is_file())
    return content_hash(corpus.label_file, *(f"{path.name} {sampled_hash(path)}" for path in audio))


@dataclass(frozen=True)
class StudyRun:
    """A run of the grid in its folder."""

    root: Path  # the study's folder
    run: GridRun
    inputs: str  # hash of its inputs

    @property
    def path(self) -> Path:
        """The run's folder."""
        return self.root / self.run.folder

    @property
    def has_other_inputs(self) -> bool:
        """Whether its folder's content doesn't belong to these inputs; where that can't be told, it isn't deleted."""
        path = self.path / INPUTS
        try:
            return not path.is_file() or bool(read_json(path)["inputs"] != self.inputs)
        except (KeyError, UserError) as error:
            raise UserError("is damaged", where=path, remedy="Delete its folder to repeat the run") from error

    def complete(self, needs: Mapping[str, Future[Outcome]], launcher: Launcher) -> Outcome:
        """Keep results of these inputs, delete any others, and run the stages that are left."""
        # needed runs were submitted earlier, so they have ended or are running
        failed = next((need for need, future in needs.items() if not future.result().is_complete), None)
        if failed is not None:
            return Outcome("blocked", f"it needs {failed}, which failed")
        started, log = time.perf_counter(), self.path / LOG
        try:
            if self.has_other_inputs:
                shutil.rmtree(self.path, ignore_errors=True)
                commands = [["ser", *self._argv(stage)] for stage in self.run.stages]
                write_json(self.path / INPUTS, {"inputs": self.inputs, "commands": commands})
            elif _found(read_record, self.path) is not None:
                return Outcome("kept")
            for stage in self.run.stages:
                if _found(read_stage, self._cost_file(stage)) is None:
                    code, measured = launcher.run([*self._argv(stage), *self._resume(stage)], log)
                    if code != 0:
                        text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
                        return Outcome("failed", text.strip().rpartition("\n")[2] or "it printed nothing")
                    self._write_cost(stage, measured)
            self._write_record()
        except UserError as error:
            return Outcome("failed", str(error))
        return Outcome("done", duration(time.perf_counter() - started))

    def _argv(self, stage: Stage) -> list[str]:
        return [word.replace(ROOT, str(self.root)) for word in stage.argv]

    def _resume(self, stage: Stage) -> list[str]:
        """Delete the output of an interrupted stage unless it can be resumed -> flags to resume with."""
        out = self.root / stage.out
        last = next(out.glob("*-last.ckpt"), None)
        if stage.name == "fit" and last is not None:
            return ["--ckpt_path", str(last)]
        # a damaged record is of a stage that had ended
        ended = self._cost_file(stage).exists()
        if stage.name not in RESUMABLE and not (ended and any(out.rglob("*.ckpt"))):
            shutil.rmtree(out, ignore_errors=True)
        return []

    def _cost_file(self, stage: Stage) -> Path:
        return self.path / f"{stage.name}.json"

    def _write_cost(self, stage: Stage, measured: Mapping[str, float]) -> None:
        # resumed training has a folder of its own, and its record is of all of it
        found = (self.root / stage.out).rglob(f"{stage.name}_cost.json")
        recorded = max(found, key=lambda path: path.stat().st_mtime_ns, default=None)
        own = recorded and _found(read_json, recorded)
        write_json(self._cost_file(stage), {"command": stage.name, **measured, **(own or {})})

    def _write_record(self) -> None:
        run, last = self.run, self.root / self.run.stages[-1].out
        found = sorted(last.rglob(SPEAKER_MOMENTS))
        if run.kind == "recipe" and not found:
            what = f"`ser {run.stages[-1].name}` wrote no {SPEAKER_MOMENTS}, by which recipes are compared"
            raise UserError(what, where=run.title, remedy="Add configs/pldc.yaml to the study's test_configs")
        record = RunRecord(
            name=run.name,
            kind=run.kind,
            results=str(found[-1].parent.relative_to(self.path)) if found else None,
            needs=run.needs,
            stages=[cost for stage in run.stages if (cost := _found(read_stage, self._cost_file(stage)))],
            pretraining=_pretraining_scores(last),
            **run.point._asdict(),
        )
        write_json(self.path / DONE, asdict(record))


def _found(read: Callable[[Path], Found], path: Path) -> Found | None:
    """What a record says; None where there is none, or it is damaged."""
    with suppress(UserError, FileNotFoundError):
        return read(path)
    return None


def _pretraining_scores(folder: Path) -> dict[str, float | None] | None:
    # imports lightning
    from ser_personal.training.checkpoints import SCORES

    for path in sorted(folder.glob(f"*{SCORES}")):
        scores = _found(read_json, path) or {}
        if scores.get("val_codebook_usage") is not None and scores.get("val_loss") is not None:
            return {name: scores.get(name) for name in PRETRAINING_SCORES}
    return None
