"""`ser study`: the grid of a YAML, run, resumed and compared."""

from __future__ import annotations

import fcntl
import os
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from ser_personal.errors import UserError
from ser_personal.study.grid import expand
from ser_personal.study.schema import PersonalizationGap, Preparation, Recipe, Study
from ser_personal.types import Attribute

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ser_personal.study.processes import Runner

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
    from ser_personal.calibration.results import write_json
    from ser_personal.report.comparison.command import compare
    from ser_personal.study.joined_predictions import join_predictions
    from ser_personal.study.progress import Progress
    from ser_personal.study.run_folder import RunFolder, hash_inputs
    from ser_personal.study.schedule import run_all

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
    from ser_personal.study.processes import ForkRunner, SubprocessRunner

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
