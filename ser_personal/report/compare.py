"""`ser compare`: recipes side by side."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np

from ser_personal.calibration.run_files import COST, KEYS, MOMENTS, SPEAKER_MOMENTS, write_json
from ser_personal.errors import LARGEST_SEED, UserError, require_range
from ser_personal.files import atomic_write
from ser_personal.scores import ccc_from_sums
from ser_personal.types import ATTRIBUTES

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from numpy.typing import NDArray

    from ser_personal.report.bootstrap import Bootstrap, Estimate


def compare(
    runs: list[str],
    baseline: str | None = None,
    out: str | None = None,
    name: str = "comparison",
    min_utterances: int = 10,
    resamples: int = 2000,
    seed: int = 0,
    *,
    paper: bool = False,
) -> None:
    """Compare test runs: O-CCC and A-CCC of each recipe and calibration with 95 % intervals, beside their cost.

    Where the runs are of a study of the personalisation gap, the gap over the number of training speakers comes beside;
    where a study pre-trained, how well each of its pre-trainings predicts masked frames.

    Args:
        runs: folders of test runs, or one with many, such as a study's.
        baseline: what the others are held against: a recipe, whose raw predictions count, or one with its calibration,
            such as papt/sigma.
        out: folder for the comparison's .md, .csv and .png; the first of `runs` if None.
        name: of these files.
        min_utterances: labelled utterances a speaker must have to count in A-CCC.
        resamples: draws of the speakers behind each interval.
        seed: of these draws.
        paper: put the paper's rows beside.

    Raises:
        UserError: a folder holds no test run, the runs can't be compared, or the baseline isn't among them.
    """
    from rich.console import Console

    from ser_personal.report.bootstrap import Bootstrap
    from ser_personal.report.compare_page import (
        draw_costs,
        draw_gaps,
        flat,
        flat_gaps,
        flat_pretraining,
        gap_section,
        page,
        pretraining_rows,
        pretraining_section,
        show_sets,
    )

    require_range("min_utterances", min_utterances, 2)
    require_range("seed", seed, 0, LARGEST_SEED)
    if resamples < 100:
        raise UserError(f"{resamples} is too few for an interval", where="--resamples", remedy="Give at least 100")
    found = find_runs(runs)
    tests = join_runs(found)
    base, bootstrap = find_baseline(tests, baseline), Bootstrap(resamples, seed)
    sets = [compare_systems(test, base, bootstrap, min_utterances) for test in tests]
    costs = recipe_costs(found)
    stem = Path(runs[0] if out is None else out) / name
    text = page(sets, costs, baseline=base, bootstrap=bootstrap, min_utterances=min_utterances, paper=paper)
    gaps = find_gaps(tests, found, bootstrap, min_utterances)
    pretrained = pretraining_rows(found)
    if pretrained:
        text += pretraining_section(pretrained)
        atomic_write(f"{stem}_pretraining.csv", flat_pretraining(pretrained).to_csv(index=False).encode())
    if gaps:
        text += gap_section(gaps)
        atomic_write(f"{stem}_gap.csv", flat_gaps(gaps).to_csv(index=False).encode())
        draw_gaps(gaps, Path(f"{stem}_gap.png"))
    atomic_write(f"{stem}.md", text.encode())
    atomic_write(f"{stem}.csv", flat(sets, costs, paper=paper).to_csv(index=False).encode())
    drawn = draw_costs(sets, costs, Path(f"{stem}.png"))
    show_sets(sets, base, min_utterances)
    written = f"{stem}.md and .csv" if not drawn else f"{stem}.md, .csv and .png"
    written += f", {stem}_pretraining.csv" if pretrained else ""
    written += f", {stem}_gap.csv and .png" if gaps else ""
    Console(soft_wrap=True, highlight=False).print(f"written: {written}", markup=False)


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
        val_loss_unseen_speakers: on speakers that pre-training didn't hear; None where the corpus has none.
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
    """A whole run; the file is written last, so what has none is broken.

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
        stages: what its commands cost; a test by hand knows its own cost alone.
        needs: what the study wrote of the preparation runs that it used.
        point: of the personalisation gap, None where the run is of no such study.
    """

    recipe: str
    seed: int | None
    moments: pd.DataFrame
    stages: tuple[StageCost, ...]
    needs: tuple[RunRecord, ...] = ()
    point: GapPoint | None = None


def find_runs(given: Sequence[str]) -> list[ComparedRun]:
    """Read every run in some folders: whole runs of a study where there are any, else all test runs.

    Raises:
        UserError: a folder holds no test run, or a file is damaged.
    """
    runs: list[ComparedRun] = []
    for folder in map(Path, given):
        found = _of_study(folder) or _by_hand(folder)
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


def _by_hand(folder: Path) -> list[ComparedRun]:
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


@dataclass(frozen=True, eq=False)
class System:
    """A row of the comparison, on one test set and attribute.

    Seeds, and the draws of a control by chance, are replicates: a figure of a system is the mean of its replicates'.

    Attributes:
        recipe: name.
        calibration: raw, sigma, posterior, ...
        is_oracle: it read test labels, so it is never a result.
        seeds: how many.
        utterances: (speakers,), labelled, the same in every replicate.
        moments: (replicates, speakers, 5), the columns of `MOMENTS`: means and variances of predictions and labels, and
            their covariance.
        ccc: (replicates, speakers), each speaker's own, NaN where undefined.
    """

    recipe: str
    calibration: str
    is_oracle: bool
    seeds: int
    utterances: NDArray[np.float64]
    moments: NDArray[np.float64]
    ccc: NDArray[np.float64]

    @property
    def name(self) -> str:
        """Recipe and calibration, as a baseline is named."""
        return f"{self.recipe}/{self.calibration}"

    @cached_property
    def defined(self) -> NDArray[np.bool_]:
        """Speakers (speakers,) whose own CCC is defined in every replicate."""
        return np.asarray(~np.isnan(self.ccc).any(axis=0))

    @cached_property
    def _sums(self) -> NDArray[np.float64]:
        """What each speaker adds, (replicates, speakers, 6): n, and sums of p, l, p², l², pl around the mean label."""
        n = self.utterances
        middle = n @ self.moments[0, :, 1] / n.sum()
        p, label = self.moments[..., 0] - middle, self.moments[..., 1] - middle
        squares = (self.moments[..., 2] + p**2, self.moments[..., 3] + label**2, self.moments[..., 4] + p * label)
        return np.stack(np.broadcast_arrays(n, n * p, n * label, *(n * each for each in squares)), axis=-1)

    def overall_ccc(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """O-CCC (draws,) over all utterances, each speaker taken as often as weights (draws, speakers) say."""
        of_replicates = ccc_from_sums(*np.moveaxis(weights @ self._sums, -1, 0))
        return np.asarray(of_replicates.mean(axis=0))

    def average_ccc(self, weights: NDArray[np.float64], counted: NDArray[np.bool_]) -> NDArray[np.float64]:
        """A-CCC (draws,) over the counted speakers (speakers,), each one's own CCC averaged over replicates first."""
        if not counted.any():
            return np.full(len(weights), np.nan)
        own = self.ccc[:, counted].mean(axis=0)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(weights[:, counted] @ own / weights[:, counted].sum(axis=1))


@dataclass(frozen=True, eq=False)
class TestSet:
    """The systems of one test set and attribute, in the order of the runs.

    Attributes:
        split: name of the set.
        attribute: what is predicted.
        speakers: of the set, sorted; the same for all systems.
        systems: a recipe's calibrations one after the other.
        left_out: seeds that lack speakers, one sentence each.
    """

    split: str
    attribute: str
    speakers: tuple[str, ...]
    systems: tuple[System, ...]
    left_out: tuple[str, ...]


def join_runs(runs: Sequence[ComparedRun]) -> list[TestSet]:
    """Join the folds of each seed, then the seeds of each recipe, for every test set and attribute.

    Raises:
        UserError: a speaker is tested twice by one seed, or no recipe met all speakers, or the labels differ.
    """
    import pandas as pd

    table = pd.concat(
        run.moments.assign(recipe=run.recipe, seed="" if run.seed is None else str(run.seed)) for run in runs
    )
    twice = table[table.duplicated(["recipe", "seed", "split", "row", "draw", "attribute", "speaker"])]
    if len(twice):
        first = twice.iloc[0]
        raise UserError(
            f"speaker {first['speaker']} is tested twice on {first['split']}",
            where=first["recipe"],
            remedy="Give each run once, under a folder name of its own",
        )
    found = table.groupby(["split", "attribute"], sort=False)
    order = {attribute: place for place, attribute in enumerate(ATTRIBUTES)}
    sets = [_join(part) for _, part in found]
    return sorted(sets, key=lambda test: (test.split, order.get(test.attribute, len(order))))


def _join(table: pd.DataFrame) -> TestSet:
    split, attribute = str(table["split"].iloc[0]), str(table["attribute"].iloc[0])
    speakers = sorted(table["speaker"].unique())
    left_out, whole = [], []
    for (recipe, seed), part in table.groupby(["recipe", "seed"], sort=False):
        missing = len(speakers) - part["speaker"].nunique()
        if missing:
            which = f"{recipe}, seed {seed}" if seed else str(recipe)
            left_out.append(f"{which} was not tested on {missing} of {len(speakers)} speakers")
        else:
            whole.append(part)
    if not whole:
        raise UserError(
            f"no recipe was tested on all {len(speakers)} speakers of {split} that the others were tested on",
            where=attribute,
            remedy="Compare runs on the same test set; a study's missing folds come by running it again",
        )
    systems, labels = [], None
    for recipe in dict.fromkeys(part["recipe"].iloc[0] for part in whole):
        of_recipe = [part for part in whole if part["recipe"].iloc[0] == recipe]
        for row in dict.fromkeys(name for part in of_recipe for name in part["row"]):
            having = [part[part["row"] == row] for part in of_recipe]
            system = _system(recipe, row, [part for part in having if len(part)], speakers)
            own = (system.utterances, system.moments[0, :, 1])
            labels = own if labels is None else labels
            _require_same_labels(labels, own, system, speakers)
            systems.append(system)
    return TestSet(split, attribute, tuple(speakers), tuple(systems), tuple(left_out))


def _system(recipe: str, row: str, parts: Sequence[pd.DataFrame], speakers: Sequence[str]) -> System:
    replicates = [draw.set_index("speaker").loc[list(speakers)] for part in parts for _, draw in part.groupby("draw")]
    return System(
        recipe=recipe,
        calibration=row,
        is_oracle=bool(parts[0]["is_oracle"].iloc[0]),
        seeds=len(parts),
        utterances=replicates[0]["utterances"].to_numpy(dtype=np.float64),
        moments=np.stack([draw[list(MOMENTS)].to_numpy(dtype=np.float64) for draw in replicates]),
        ccc=np.stack([draw["ccc"].to_numpy(dtype=np.float64) for draw in replicates]),
    )


def _require_same_labels(
    expected: tuple[np.ndarray, np.ndarray], own: tuple[np.ndarray, np.ndarray], system: System, speakers: Sequence[str]
) -> None:
    counts, means = (np.isclose(one, other) for one, other in zip(expected, own, strict=True))
    same = counts & means
    if not same.all():
        raise UserError(
            f"other utterances or labels of speaker {speakers[int(np.argmin(same))]} than in the first recipe",
            where=system.name,
            remedy="Compare runs on one test set with the same labels",
        )


SENSITIVITY = (5, 20)


@dataclass(frozen=True)
class ComparedRow:
    """One system on one test set and attribute.

    Attributes:
        recipe: name.
        calibration: raw, sigma, posterior, ...
        is_oracle: it read test labels, so it is never a result.
        seeds: how many were averaged.
        overall_ccc: O-CCC.
        average_ccc: A-CCC.
        overall_gain: over the baseline, paired; None where there is no baseline.
        average_gain: over the baseline, paired; None where there is no baseline.
        sensitivity: utterances that a speaker must have -> A-CCC over those speakers.
    """

    recipe: str
    calibration: str
    is_oracle: bool
    seeds: int
    overall_ccc: Estimate
    average_ccc: Estimate
    overall_gain: Estimate | None
    average_gain: Estimate | None
    sensitivity: dict[int, float]


@dataclass(frozen=True)
class ComparedSet:
    """All systems on one test set and attribute.

    Attributes:
        split: name of the set.
        attribute: what is predicted.
        rows: one a system.
        speakers: that O-CCC is over, and that are resampled.
        counted: utterances that a speaker must have -> speakers that A-CCC is over, the same for all rows.
        notes: what was left out.
    """

    split: str
    attribute: str
    rows: tuple[ComparedRow, ...]
    speakers: int
    counted: dict[int, int]
    notes: tuple[str, ...]


def find_baseline(tests: Sequence[TestSet], name: str | None) -> str | None:
    """Complete a baseline's name: `papt/sigma` is one calibration, `papt` its first, the raw predictions.

    Raises:
        UserError: no system has this name.
    """
    if name is None:
        return None
    systems = [system for test in tests for system in test.systems]
    found = next((each.name for each in systems if name in {each.name, each.recipe}), None)
    if found is None:
        recipes = ", ".join(dict.fromkeys(each.recipe for each in systems))
        raise UserError(
            f"no recipe {name} to compare with",
            where="--baseline",
            remedy=f"Choose one of {recipes}, or one with its calibration, such as {systems[0].name}",
        )
    return found


def compare_systems(test: TestSet, baseline: str | None, bootstrap: Bootstrap, min_utterances: int = 10) -> ComparedSet:
    """Score every system by the same draws of the speakers.

    A-CCC counts, for all systems alike, the speakers with enough utterances whose own CCC is defined in every system.

    Args:
        test: the systems.
        baseline: name of the one that the others are held against; ignored where this set lacks it.
        bootstrap: makes the draws and the intervals.
        min_utterances: labelled utterances a speaker must have to count in A-CCC.
    """
    weights = bootstrap.weights([None] * len(test.speakers))
    counted = {least: counted_speakers(test, least) for least in sorted({*SENSITIVITY, min_utterances})}
    base = next((system for system in test.systems if system.name == baseline), None)

    def figures(system: System) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        return system.overall_ccc(weights), system.average_ccc(weights, counted[min_utterances])

    of_base = None if base is None else figures(base)
    number = int(counted[min_utterances].sum())
    rows = []
    for system in test.systems:
        overall, average = figures(system)
        gains = None if of_base is None or system is base else (overall - of_base[0], average - of_base[1])
        rows.append(
            ComparedRow(
                recipe=system.recipe,
                calibration=system.calibration,
                is_oracle=system.is_oracle,
                seeds=system.seeds,
                overall_ccc=bootstrap.estimate(overall, len(test.speakers)),
                average_ccc=bootstrap.estimate(average, number),
                overall_gain=None if gains is None else bootstrap.estimate(gains[0], len(test.speakers)),
                average_gain=None if gains is None else bootstrap.estimate(gains[1], number),
                sensitivity={least: float(system.average_ccc(weights[:1], who)[0]) for least, who in counted.items()},
            )
        )
    return ComparedSet(
        split=test.split,
        attribute=test.attribute,
        rows=tuple(rows),
        speakers=len(test.speakers),
        counted={least: int(who.sum()) for least, who in counted.items()},
        notes=test.left_out,
    )


def counted_speakers(test: TestSet, min_utterances: int) -> NDArray[np.bool_]:
    """Whom (speakers,) A-CCC is over: who has enough utterances, and a CCC of their own in every system."""
    defined = np.all([system.defined for system in test.systems], axis=0)
    return np.asarray(defined & (test.systems[0].utterances >= min_utterances))


# making the corpus and looking at the result are no part of training
_NO_TRAINING = {"synth", "folds", "check", "import", "test"}


@dataclass(frozen=True)
class RecipeStage:
    """A command of a recipe, the mean over its runs; None where it wasn't counted.

    Attributes:
        name: fit, test, or the preparation step's.
        command: fit, test, kmeans, ...
        is_shared: other recipes may use what it made.
        seconds: wall time of one run.
        cpu_seconds: of all threads.
        speech_hours: that went through the model, every epoch counted.
        flops: floating-point operations.
        peak_memory: bytes, of the run that took most.
        trained_parameters: that it changed.
    """

    name: str
    command: str
    is_shared: bool
    seconds: float
    cpu_seconds: float | None
    speech_hours: float | None
    flops: float | None
    peak_memory: int | None
    trained_parameters: int | None


@dataclass(frozen=True)
class RecipeCost:
    """All commands behind a recipe's models, in their order."""

    recipe: str
    stages: tuple[RecipeStage, ...]

    @property
    def training_seconds(self) -> float:
        """To train one model from the corpus on, shared preparation included."""
        return float(sum(stage.seconds for stage in self._training))

    @property
    def training_cpu_seconds(self) -> float | None:
        """The same on the processor, of all threads; None where a stage's wasn't counted."""
        return _total([stage.cpu_seconds for stage in self._training])

    @property
    def training_flops(self) -> float | None:
        """Floating-point operations of the stages that counted them; None where none did."""
        return _total([stage.flops for stage in self._training if stage.flops is not None])

    @property
    def _training(self) -> list[RecipeStage]:
        return [stage for stage in self.stages if stage.command not in _NO_TRAINING]


def recipe_costs(runs: Sequence[ComparedRun]) -> list[RecipeCost]:
    """Average what the runs of each recipe took; recipes that nothing is recorded of are left out."""
    costs = []
    for recipe in dict.fromkeys(run.recipe for run in runs):
        own = [run for run in runs if run.recipe == recipe]
        shared: dict[str, list[list[StageCost]]] = {}
        for record in dict.fromkeys(record for run in own for record in run.needs):
            shared.setdefault(record.name, []).append(list(record.stages))
        stages = [stage for name, of_step in shared.items() for stage in _means(of_step, name)]
        stages += _means([list(run.stages) for run in own], None)
        if stages:
            costs.append(RecipeCost(recipe, tuple(stages)))
    return costs


def _means(runs: Sequence[Sequence[StageCost]], step: str | None) -> list[RecipeStage]:
    means = []
    for command in dict.fromkeys(stage.command for stages in runs for stage in stages):
        found = [stage for stages in runs for stage in stages if stage.command == command]
        speech = _mean([stage.speech_seconds for stage in found])
        memory = [stage.peak_memory for stage in found if stage.peak_memory is not None]
        weights = [stage.trained_parameters for stage in found if stage.trained_parameters is not None]
        means.append(
            RecipeStage(
                name=step or command,
                command=command,
                is_shared=step is not None,
                seconds=float(np.mean([stage.seconds for stage in found])),
                cpu_seconds=_mean([stage.cpu_seconds for stage in found]),
                speech_hours=None if speech is None else speech / 3600,
                flops=_mean([stage.flops for stage in found]),
                peak_memory=max(memory, default=None),
                trained_parameters=max(weights, default=None),
            )
        )
    return means


def _total(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(sum(known)) if known and len(known) == len(values) else None


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


@dataclass(frozen=True)
class Contrast:
    """One metric on both sides.

    Attributes:
        dependent: of models that know the test speakers.
        independent: of those that don't.
        gap: dependent minus independent, over the same draws of the speakers.
    """

    dependent: Estimate
    independent: Estimate
    gap: Estimate


@dataclass(frozen=True)
class GapRow:
    """One recipe at one number of training speakers, its predictions uncalibrated.

    Attributes:
        recipe: name.
        training_speakers: on each side.
        seeds: averaged, of the side that has fewer.
        overall_ccc: O-CCC.
        average_ccc: A-CCC.
    """

    recipe: str
    training_speakers: int
    seeds: int
    overall_ccc: Contrast
    average_ccc: Contrast


@dataclass(frozen=True)
class GapSet:
    """The gap on one test set and attribute.

    Attributes:
        split: name of the set.
        attribute: what is predicted.
        speakers: that O-CCC is over, and that are resampled.
        counted: speakers that A-CCC is over.
        rows: recipe by recipe, by the number of training speakers.
    """

    split: str
    attribute: str
    speakers: int
    counted: int
    rows: tuple[GapRow, ...]


def find_gaps(
    tests: Sequence[TestSet], runs: Sequence[ComparedRun], bootstrap: Bootstrap, min_utterances: int = 10
) -> list[GapSet]:
    """Hold both sides of each point against each other; points with one side alone are left out.

    Args:
        tests: the systems of the runs.
        runs: of a study of the gap; others have none.
        bootstrap: makes the draws and the intervals.
        min_utterances: labelled utterances a speaker must have to count in A-CCC.

    Returns:
        Test sets that have a gap.
    """
    points = list(dict.fromkeys(run.point for run in runs if run.point is not None))
    recipes = list(dict.fromkeys(point.recipe for point in points))
    numbers = sorted({point.training_speakers for point in points})
    sets = []
    for test in tests:
        # the first row of a recipe is its raw predictions
        raw = {system.recipe: system for system in reversed(test.systems)}
        weights, counted = bootstrap.weights([None] * len(test.speakers)), counted_speakers(test, min_utterances)

        def contrast(sides: Sequence[NDArray[np.float64]], speakers: int) -> Contrast:
            dependent, independent = sides
            compared = (dependent, independent, dependent - independent)
            return Contrast(*(bootstrap.estimate(figures, speakers) for figures in compared))

        rows = []
        for recipe in recipes:
            for number in numbers:
                names = [GapPoint(recipe, number, side).name for side in ("dependent", "independent")]
                if not all(name in raw for name in names):
                    continue
                both = [raw[name] for name in names]
                rows.append(
                    GapRow(
                        recipe=recipe,
                        training_speakers=number,
                        seeds=min(system.seeds for system in both),
                        overall_ccc=contrast([each.overall_ccc(weights) for each in both], len(test.speakers)),
                        average_ccc=contrast([each.average_ccc(weights, counted) for each in both], int(counted.sum())),
                    )
                )
        if rows:
            sets.append(GapSet(test.split, test.attribute, len(test.speakers), int(counted.sum()), tuple(rows)))
    return sets
