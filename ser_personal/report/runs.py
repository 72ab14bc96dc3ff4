"""What is recorded of runs: what each stage cost, how it pre-trained, and its scores speaker by speaker."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np

from ser_personal.calibration.run_files import COST, SPEAKER_MOMENTS, write_json
from ser_personal.calibration.table import KEYS, MOMENTS
from ser_personal.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

DONE = "done.json"


@dataclass(frozen=True)
class StageCost:
    """What one `ser` command took; None where it wasn't counted.

    Attributes:
        command: fit, test, kmeans, ...
        seconds: wall time, without imports where the stage is Lightning's.
        cpu_seconds: of all threads.
        peak_memory: bytes of the process, at most; of the largest where there are several.
        device_memory: bytes on the accelerator, at most.
        speech_seconds: of the audio that went through the model, every epoch counted.
        flops: floating-point operations, measured on some batches and scaled by their audio.
        trained_parameters: that training changed.
        device: cpu, cuda, ...
    """

    command: str
    seconds: float
    cpu_seconds: float | None = None
    peak_memory: int | None = None
    device_memory: int | None = None
    speech_seconds: float | None = None
    flops: float | None = None
    trained_parameters: int | None = None
    device: str | None = None


@dataclass(frozen=True)
class PretrainingScores:
    """Masked prediction of the checkpoint that pre-training kept, as its validation logged it.

    Attributes:
        val_loss: nats a masked frame, on held-out utterances of pre-training speakers.
        val_accuracy: share of masked frames, on the same.
        val_loss_unseen_speakers: on speakers outside pre-training; None where the corpus has none.
        val_accuracy_unseen_speakers: on the same.
    """

    val_loss: float
    val_accuracy: float
    val_loss_unseen_speakers: float | None = None
    val_accuracy_unseen_speakers: float | None = None

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """Find them in a fit's folder; None where it was no pre-training, or its loss wasn't finite."""
        # imports lightning
        from ser_personal.training.checkpoints import SCORES

        for path in sorted(folder.glob(f"*{SCORES}")):
            scores = json.loads(path.read_text(encoding="utf-8"))
            if scores.get("val_codebook_usage") is not None and scores["val_loss"] is not None:
                return cls(**{field.name: scores.get(field.name) for field in fields(cls)})
        return None


@dataclass(frozen=True)
class RunRecord:
    """A complete run; its file, done.json, is written last, so a folder without one is an interrupted run.

    Attributes:
        name: of the recipe, or of the preparation step.
        kind: which of the two.
        inputs: hash of all that the run depends on.
        seed: None where one run serves all seeds.
        fold: None where one run serves all folds.
        attribute: None where one model predicts all attributes.
        results: folder of speaker_moments.csv, relative to the run's; None for a preparation step.
        needs: folders of the preparation runs that it used, theirs included, relative to the study's.
        stages: in their order.
        training_speakers: how many, where the personalisation gap is studied.
        side: of the gap, dependent or independent.
        pretraining: its scores; None where the run is no pre-training.
    """

    name: str
    kind: Literal["recipe", "preparation"]
    inputs: str
    seed: int | None
    fold: int | None
    attribute: str | None
    results: str | None
    needs: tuple[str, ...]
    stages: tuple[StageCost, ...]
    training_speakers: int | None = None
    side: str | None = None
    pretraining: PretrainingScores | None = None

    def write(self, folder: Path) -> None:
        """Write done.json."""
        write_json(folder / DONE, asdict(self))


def read_record(folder: Path) -> RunRecord:
    """Read done.json.

    Raises:
        UserError: it is damaged.
    """
    path = folder / DONE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        stages = tuple(StageCost(**stage) for stage in content.pop("stages"))
        scores = content.pop("pretraining", None)
        pretraining = None if scores is None else PretrainingScores(**scores)
        rest = {"needs": tuple(content["needs"]), "stages": stages, "pretraining": pretraining}
        return RunRecord(**content | rest)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(
            "isn't the record of a run", where=path, remedy="Delete it, and run `ser study` again"
        ) from error


def read_stage(path: Path) -> StageCost:
    """Read the cost of one stage, as `write_stage` wrote it."""
    return StageCost(**json.loads(path.read_text(encoding="utf-8")))


def write_stage(path: Path, measured: dict[str, Any]) -> None:
    """Write the cost of one stage; what `StageCost` doesn't know is left out."""
    known = {field.name for field in fields(StageCost)}
    write_json(path, {name: value for name, value in measured.items() if name in known})


_LIGHTNING = re.compile(r"/lightning_logs/version_\d+$")


@dataclass(frozen=True)
class GapPoint:
    """One side of the personalisation gap at one number of training speakers.

    Attributes:
        recipe: name, as the study has it.
        training_speakers: how many.
        side: dependent, the test speakers among them, or independent.
    """

    recipe: str
    training_speakers: int
    side: str

    @property
    def name(self) -> str:
        """As a row of the comparison: `vanilla, 50 speakers, dependent`."""
        return f"{self.recipe}, {self.training_speakers} speakers, {self.side}"


@dataclass(frozen=True, eq=False)
class ComparedRun:
    """One test run.

    Attributes:
        recipe: name.
        seed: None where the recipe has one run for all seeds.
        moments: its speaker_moments.csv.
        stages: what its commands cost; of a test outside a study only its own.
        needs: what the study wrote of the preparation runs that it used.
        point: of the personalisation gap, None where the run is of no such study.
    """

    recipe: str
    seed: int | None
    moments: pd.DataFrame
    stages: tuple[StageCost, ...]
    needs: tuple[RunRecord, ...] = ()
    point: GapPoint | None = None


def find_runs(folders: Sequence[str]) -> list[ComparedRun]:
    """Read every run in some folders: complete runs of a study where there are any, else all test runs.

    Raises:
        UserError: a folder holds no test run, or a file is damaged.
    """
    runs: list[ComparedRun] = []
    for folder in map(Path, folders):
        found = _of_study(folder) or _tests_in(folder)
        if not found:
            raise UserError(
                f"holds no test run with {SPEAKER_MOMENTS}",
                where=folder,
                remedy="Give folders of `ser test ... --config configs/pldc.yaml`, or of a study whose runs have ended",
            )
        runs += found
    return runs


def _of_study(folder: Path) -> list[ComparedRun]:
    runs = []
    for path in sorted(folder.rglob(DONE)):
        record = read_record(path.parent)
        if record.kind == "recipe" and record.results is not None:
            study = _study_of(path.parent)
            needs = tuple(read_record(study / need) for need in record.needs if (study / need / DONE).is_file())
            moments = read_moments(path.parent / record.results / SPEAKER_MOMENTS)
            point = _point(record)
            name = record.name if point is None else point.name
            runs.append(ComparedRun(name, record.seed, moments, record.stages, needs, point))
    return runs


def _point(record: RunRecord) -> GapPoint | None:
    if record.training_speakers is None or record.side is None:
        return None
    return GapPoint(record.name, record.training_speakers, record.side)


def _study_of(run: Path) -> Path:
    """The folder that a run's `runs` folder lies in."""
    return next((parent.parent for parent in run.absolute().parents if parent.name == "runs"), run)


def _tests_in(folder: Path) -> list[ComparedRun]:
    paths = sorted(folder.rglob(SPEAKER_MOMENTS))
    names = [_LIGHTNING.sub("", path.parent.absolute().as_posix()) for path in paths]
    # a folder tested twice has two versions, which need their numbers
    full = [
        name if names.count(name) == 1 else path.parent.absolute().as_posix()
        for path, name in zip(paths, names, strict=True)
    ]
    start = folder.absolute().as_posix()
    return [
        ComparedRun(
            name.removeprefix(start).strip("/") or folder.absolute().name, None, read_moments(path), _cost(path.parent)
        )
        for path, name in zip(paths, full, strict=True)
    ]


def _cost(folder: Path) -> tuple[StageCost, ...]:
    if not (folder / COST).is_file():
        return ()
    cost = json.loads((folder / COST).read_text(encoding="utf-8"))
    return (
        StageCost(
            "test",
            cost["test_seconds"],
            speech_seconds=cost["test_speech_seconds"],
            trained_parameters=cost["trained_parameters"],
            device=cost["device"],
        ),
    )


def read_moments(path: Path) -> pd.DataFrame:
    """Read speaker_moments.csv.

    Raises:
        UserError: it is missing, damaged, or lacks a column.
    """
    import pandas as pd

    text = {"split": str, "row": str, "attribute": str, "speaker": str}
    try:
        table = pd.read_csv(
            path, dtype=text, keep_default_na=False, na_values={"ccc": [""]}, float_precision="round_trip"
        )
    except (OSError, ValueError) as error:
        raise UserError("can't be read", where=path, remedy="Run `ser test` again") from error
    missing = [name for name in (*KEYS, "utterances", *MOMENTS, "ccc") if name not in table.columns]
    if missing:
        raise UserError(f"no column {', '.join(missing)}", where=path, remedy="Run `ser test` of this version again")
    return table


# making the corpus and looking at the result are no part of training
_NO_TRAINING = {"synth", "folds", "check", "import", "test"}


@dataclass(frozen=True)
class RecipeStage:
    """A command of a recipe; `cost` is the mean over its runs, but of memory and trained parameters the greatest.

    Attributes:
        name: fit, test, or the preparation step's.
        is_shared: other recipes may use what it made.
        cost: None where it wasn't counted.
    """

    name: str
    is_shared: bool
    cost: StageCost


@dataclass(frozen=True)
class RecipeCost:
    """All commands that made a recipe's models, in their order; to train one, shared preparation is included."""

    recipe: str
    stages: tuple[RecipeStage, ...]

    @property
    def training_seconds(self) -> float:
        """Wall time to train one model from the corpus on."""
        return float(sum(cost.seconds for cost in self._training))

    @property
    def training_cpu_seconds(self) -> float | None:
        """The same on the processor, of all threads; None where a stage's wasn't counted."""
        counted = [cost.cpu_seconds for cost in self._training]
        return None if not counted or None in counted else float(sum(filter(None, counted)))

    @property
    def training_flops(self) -> float | None:
        """Floating-point operations of the stages that counted them; None where none did."""
        counted = [cost.flops for cost in self._training if cost.flops is not None]
        return float(sum(counted)) if counted else None

    @property
    def _training(self) -> list[StageCost]:
        return [stage.cost for stage in self.stages if stage.cost.command not in _NO_TRAINING]


def recipe_costs(runs: Sequence[ComparedRun]) -> list[RecipeCost]:
    """Average what the runs of each recipe took; recipes that nothing is recorded of are left out."""
    costs = []
    for recipe in dict.fromkeys(run.recipe for run in runs):
        own = [run for run in runs if run.recipe == recipe]
        shared: dict[str, list[StageCost]] = {}
        for record in dict.fromkeys(record for run in own for record in run.needs):
            shared.setdefault(record.name, []).extend(record.stages)
        stages = [RecipeStage(name, True, cost) for name, of_step in shared.items() for cost in _means(of_step)]  # noqa: FBT003
        stages += [
            RecipeStage(cost.command, False, cost)  # noqa: FBT003
            for cost in _means([stage for run in own for stage in run.stages])
        ]
        if stages:
            costs.append(RecipeCost(recipe, tuple(stages)))
    return costs


def _means(stages: Sequence[StageCost]) -> list[StageCost]:
    """One cost a command."""
    means = []
    for command in dict.fromkeys(stage.command for stage in stages):
        found = [stage for stage in stages if stage.command == command]
        memory = [stage.peak_memory for stage in found if stage.peak_memory is not None]
        weights = [stage.trained_parameters for stage in found if stage.trained_parameters is not None]
        means.append(
            StageCost(
                command,
                float(np.mean([stage.seconds for stage in found])),
                cpu_seconds=_mean([stage.cpu_seconds for stage in found]),
                peak_memory=max(memory, default=None),
                speech_seconds=_mean([stage.speech_seconds for stage in found]),
                flops=_mean([stage.flops for stage in found]),
                trained_parameters=max(weights, default=None),
            )
        )
    return means


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


@dataclass(frozen=True)
class PretrainingRow:
    """One pre-training step of a study: its name, how many runs of all seeds and folds, and their mean scores."""

    step: str
    runs: int
    scores: PretrainingScores


def pretraining_rows(runs: Sequence[ComparedRun]) -> list[PretrainingRow]:
    """Average the scores of each pre-training that the runs used; a score that one of them lacks is None."""
    found: dict[str, list[dict[str, float | None]]] = {}
    for record in dict.fromkeys(record for run in runs for record in run.needs):
        if record.pretraining is not None:
            found.setdefault(record.name, []).append(asdict(record.pretraining))

    def mean(values: Sequence[float | None]) -> float:
        return None if None in values else _mean(values)  # type: ignore[return-value]

    return [
        PretrainingRow(
            step, len(scores), PretrainingScores(**{key: mean([s[key] for s in scores]) for key in scores[0]})
        )
        for step, scores in found.items()
    ]
