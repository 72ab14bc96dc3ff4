"""What is compared: test runs with their costs and pre-training scores, and the predictions of other methods."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import astuple, dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from ser_personal.calibration.command import require_on_scale
from ser_personal.calibration.table import CalibrationRow, speaker_moments
from ser_personal.corpus.splits import first_few
from ser_personal.corpus.table import read_number, read_rows
from ser_personal.errors import UserError
from ser_personal.evaluation.run_files import (
    METRICS,
    PREDICTIONS,
    RIDGE,
    SPEAKER_MOMENTS,
    read_json,
    read_moments,
    read_table,
)
from ser_personal.scores import score
from ser_personal.types import ATTRIBUTES

DONE, TEST_COST = "done.json", "test_cost.json"


@dataclass(frozen=True)
class StageCost:
    """What one `ser` command took; None where it was not measured."""

    command: str
    seconds: float  # wall time, without imports in stages that Lightning runs
    cpu_seconds: float | None = None  # of all threads of the main process
    device_memory: int | None = None  # bytes, on a GPU
    speech_seconds: float | None = None  # of audio through the model, every epoch counted
    trained_parameters: int | None = None


def duration(seconds: float) -> str:
    """Seconds in a readable unit: 45 s, 12 min, 3.4 h."""
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if seconds < 7200 else f"{seconds / 3600:.3g} h"


# of masked prediction, by the checkpoint that a pre-training kept: nats per masked frame and share of masked frames, on
# held-out utterances of pre-training speakers, and on speakers outside pre-training
PRETRAINING_SCORES = ("val_loss", "val_accuracy", "val_loss_unseen_speakers", "val_accuracy_unseen_speakers")


@dataclass(frozen=True)
class RunRecord:
    """A complete run. Its file done.json is written last, so a folder without one is an interrupted run."""

    name: str
    kind: Literal["recipe", "preparation"]
    seed: int | None  # None where one run serves all seeds; fold and attribute likewise
    fold: int | None
    attribute: str | None
    results: str | None  # folder of speaker_moments.csv, relative to the run's
    needs: Sequence[str]  # folders of the preparation runs that it used, directly or not, relative to the study's
    stages: Sequence[StageCost]
    training_speakers: int | None = None  # in a study of the personalisation gap
    side: str | None = None  # of the gap: dependent or independent
    pretraining: dict[str, float | None] | None = None  # `PRETRAINING_SCORES`, None of another run


def read_record(folder: Path) -> RunRecord:
    """Read done.json; a UserError says where it is damaged."""
    path = folder / DONE
    record: RunRecord = _made(RunRecord, read_json(path), path)
    return replace(record, stages=[_made(StageCost, stage, path) for stage in record.stages])


def read_stage(path: Path) -> StageCost:
    """Read the cost of one stage; a UserError says where it is damaged."""
    cost: StageCost = _made(StageCost, read_json(path), path)
    return cost


def _made(kind: Any, content: Any, path: Path) -> Any:
    try:
        return kind(**{field.name: content[field.name] for field in fields(kind) if field.name in content})
    except TypeError as error:
        raise UserError("is damaged", where=path, remedy="Delete it, and run the command again") from error


@dataclass(frozen=True, eq=False)
class ComparedRun:
    """One test run."""

    recipe: str
    seed: int | None  # None where the recipe has one run for all seeds
    moments: pd.DataFrame  # speaker_moments.csv
    stages: Sequence[StageCost] = ()  # of a test outside a study only the test itself
    needs: dict[Path, RunRecord] = field(default_factory=dict)  # preparation runs that it used, by folder
    training_speakers: int | None = None  # in a study of the personalisation gap, as `side`
    side: str | None = None
    folder: Path | None = None  # of its files; None where they aren't on disk

    @property
    def name(self) -> str:
        """As a row of the comparison: `vanilla`, or of a gap `vanilla, 50 speakers, dependent`."""
        return self.recipe if self.side is None else f"{self.recipe}, {self.training_speakers} speakers, {self.side}"

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """What metrics.json holds, empty where there is none."""
        path = None if self.folder is None else self.folder / METRICS
        return read_json(path) if path is not None and path.is_file() else {}


def find_runs(folders: Sequence[str]) -> list[ComparedRun]:
    """Read the complete runs of a study in each folder, or all test runs where it holds no study.

    NAME=FOLDER names the folder's run; of several runs, the name comes before their own.
    """
    runs: list[ComparedRun] = []
    for argument in folders:
        name, folder = named_folder(argument)
        found = _of_study(folder) or _tests_in(folder)
        if not found:
            remedy = "Give folders of `ser test`, or of a study whose runs have ended"
            raise UserError(f"holds no test run with {SPEAKER_MOMENTS}", where=folder, remedy=remedy)
        if name is not None:
            several = len({run.recipe for run in found}) > 1
            found = [replace(run, recipe=f"{name}/{run.recipe}" if several else name) for run in found]
        runs += found
    return runs


def named_folder(argument: str) -> tuple[str | None, Path]:
    """A folder, with its name where it is given as NAME=FOLDER."""
    name, equals, folder = argument.partition("=")
    if not equals or Path(argument).is_dir():
        return None, Path(argument)
    if not (name and folder):
        raise UserError("isn't NAME=FOLDER", where=argument, remedy='Write it as in "papt=lightning_logs/version_0"')
    return name, Path(folder)


def _of_study(folder: Path) -> list[ComparedRun]:
    runs = []
    for path in sorted(folder.rglob(DONE)):
        run, record = path.parent, read_record(path.parent)
        if record.kind == "recipe" and record.results is not None:
            study = next((parent.parent for parent in run.absolute().parents if parent.name == "runs"), run)
            folders, results = [study / need for need in record.needs], run / record.results
            needs = {need: read_record(need) for need in folders if (need / DONE).is_file()}
            moments, gap = read_moments(results / SPEAKER_MOMENTS), (record.training_speakers, record.side)
            runs.append(ComparedRun(record.name, record.seed, moments, record.stages, needs, *gap, results))
    return runs


def _tests_in(folder: Path) -> list[ComparedRun]:
    paths = [path.parent for path in sorted(folder.rglob(SPEAKER_MOMENTS))]
    names = [_name(path, folder) for path in paths]
    return [
        ComparedRun(
            # a folder that was tested twice has two versions, told apart by their numbers
            name if names.count(name) == 1 else path.relative_to(folder).as_posix(),
            None,
            read_moments(path / SPEAKER_MOMENTS),
            (read_stage(path / TEST_COST),) if (path / TEST_COST).is_file() else (),
            folder=path,
        )
        for path, name in zip(paths, names, strict=True)
    ]


def _name(run: Path, folder: Path) -> str:
    """The folder above lightning_logs, as far as the path that was typed tells of it; else the run's own folder."""
    recipe = run.parent.parent if run.parent.name == "lightning_logs" else run
    if recipe == folder:
        return Path(os.path.abspath(folder)).name  # noqa: PTH100  resolve() would follow links
    if folder in recipe.parents:
        return recipe.relative_to(folder).as_posix()
    return run.name if recipe.name in ("", "..") else recipe.name


def ridge_runs(runs: Sequence[ComparedRun]) -> list[ComparedRun]:
    """Make one recipe of the rows of a ridge regression, which tests with configs/ridge.yaml hold."""
    others, found = [], []
    for run in runs:
        is_ridge = run.moments["row"] == RIDGE
        mixed = is_ridge.any() and not is_ridge.all()
        others.append(replace(run, moments=run.moments[~is_ridge].reset_index(drop=True)) if mixed else run)
        found += [run.moments[is_ridge]] if mixed else []
    if not found:
        return others
    # runs on one corpus have the same rows, and folds have other speakers; else there are several
    rows = pd.concat(found).drop_duplicates()
    ridges = [own for _, own in rows.groupby(rows.groupby(["split", "attribute", "speaker"]).cumcount())]
    names = [RIDGE] if len(ridges) == 1 else [f"{RIDGE} {number}" for number in range(1, len(ridges) + 1)]
    return [*others, *(ComparedRun(name, None, own) for name, own in zip(names, ridges, strict=True))]


def added_run(argument: str, runs: Sequence[ComparedRun]) -> ComparedRun:
    """Read another method's predictions of the utterances that the runs were tested on, from NAME=FILE[:ENDING].

    The file has a column utterance, and one for each attribute: arousal, or with an ending such as sigma arousal_sigma,
    in any case. The labels are those of the runs' predictions.csv.
    """
    name, equals, file = argument.partition("=")
    if not (name and equals and file):
        raise UserError("isn't NAME=FILE", where=f"--add {argument}", remedy='Write it as in --add "mine=mine.csv"')
    if name in {run.name for run in runs}:
        raise UserError("a run has this name", where=f"--add {argument}", remedy=f"Choose another, such as my_{name}")
    tested = _tested_utterances(runs)
    ending = ""
    if ":" in file and not Path(file).exists():
        file, _, ending = file.rpartition(":")
    path = Path(file)
    rows = read_rows(path, required=("utterance",), filled=("utterance",), any_case=("utterance",))
    listed, expected = Counter(row["utterance"] for row in rows), set(tested["utterance"])
    for what, found in (
        ("lists {} utterances more than once", {one for one in listed if listed[one] > 1}),
        ("lists {} utterances that no run was tested on", listed.keys() - expected),
        (f"lacks {{}} of {len(expected)} utterances that the runs were tested on", expected - listed.keys()),
    ):
        if found:
            remedy = f"Give one row for each utterance in {PREDICTIONS} of the runs"
            raise UserError(f"{what.format(len(found))}: {first_few(sorted(found))}", where=path, remedy=remedy)
    attributes = [one for one in ATTRIBUTES if f"{one}_label" in tested]
    column_of = {name.lower(): name for name in rows[0]}
    wanted = {one: f"{one}_{ending}".lower() if ending else one for one in attributes}
    predicted = {one: column_of[column] for one, column in wanted.items() if column in column_of}
    if not predicted:
        what = f"no column {' or '.join(wanted.values())} (found: {', '.join(rows[0])})"
        remedy = f'Rename it. Write it as in --add "{name}={file}:raw" where it has an ending'
        raise UserError(what, where=path, remedy=remedy)
    values_of = {
        row["utterance"]: [
            read_number(row, column, f"{path}, utterance {row['utterance']}", "Give a prediction")
            for column in predicted.values()
        ]
        for row in rows
    }
    scales = [run.metrics["scale"] for run in runs if "scale" in run.metrics]
    moments = []
    for split, part in tested.groupby("split", sort=False):
        values = np.array([values_of[one] for one in part["utterance"]])
        if scales:
            require_on_scale(pd.DataFrame(values, part["utterance"], [*predicted]), "predictions", scales[0], path)
        labels = part[[f"{one}_label" for one in predicted]].to_numpy(dtype=np.float64)
        speakers = [speaker or None for speaker in part["speaker"]]
        scores = score(values, labels, speakers, list(predicted))
        row = CalibrationRow("raw", scores, is_oracle=False, predictions=values[None])
        moments.append(speaker_moments(str(split), [row], labels, speakers))
    return ComparedRun(name, None, pd.concat(moments))


def _tested_utterances(runs: Sequence[ComparedRun]) -> pd.DataFrame:
    names = ("utterance", "speaker", "split")
    paths = [run.folder / PREDICTIONS for run in runs if run.folder is not None]
    tables = [
        read_table(path, names, dtype=dict.fromkeys(names, str), na_values=[""]) for path in paths if path.is_file()
    ]
    if not tables:
        what = f"no run has a {PREDICTIONS}, which names the utterances"
        raise UserError(what, where="--add", remedy="Run `ser test` again, and compare its folder")
    # runs of one attribute each have its labels alone
    table = pd.concat(tables).groupby(["split", "utterance"], sort=False).first().reset_index()
    table["speaker"] = table["speaker"].fillna("")
    return table


# of several runs the largest counts; of the rest their mean
_LARGEST = {"device_memory", "trained_parameters"}


def recipe_costs(runs: Sequence[ComparedRun]) -> pd.DataFrame:
    """What the commands of each recipe cost, in order, shared preparation first; recipes without a record are left out.

    A row a command: recipe, stage, is_shared (other recipes may use its result) and the fields of `StageCost`, means
    over the recipe's runs, maxima of memory and trained parameters; NaN where not measured.
    """
    key, measured = ["recipe", "stage", "is_shared", "command"], [field.name for field in fields(StageCost)][1:]
    rows = []
    for recipe in dict.fromkeys(run.name for run in runs):
        own = [run for run in runs if run.name == recipe]
        needed = {folder: record for run in own for folder, record in run.needs.items()}
        rows += [(recipe, each.name, True, *astuple(stage)) for each in needed.values() for stage in each.stages]
        rows += [(recipe, stage.command, False, *astuple(stage)) for run in own for stage in run.stages]
    table = pd.DataFrame(rows, columns=[*key, *measured]).astype(dict.fromkeys(measured, float))
    ways = {name: "max" if name in _LARGEST else "mean" for name in measured}
    return table.groupby(key, sort=False, as_index=False).agg(ways)


def pretraining_scores(runs: Sequence[ComparedRun]) -> pd.DataFrame:
    """Mean scores of each pre-training that the runs used, over its own runs; NaN where one of these lacks a score."""
    records = {folder: record for run in runs for folder, record in run.needs.items()}
    rows = [{"step": each.name, **each.pretraining} for each in records.values() if each.pretraining is not None]
    table = pd.DataFrame(rows, columns=["step", *PRETRAINING_SCORES]).astype(dict.fromkeys(PRETRAINING_SCORES, float))
    of_steps = table.groupby("step", sort=False)
    means = of_steps.agg(pd.Series.mean, skipna=False)
    means.insert(0, "runs", of_steps.size())
    return means.reset_index()
