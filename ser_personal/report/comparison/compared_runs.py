"""The runs that `ser compare` is given: those of a study, or single test runs."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ser_personal.calibration.speaker_moments import KEYS, MOMENTS, SPEAKER_MOMENTS
from ser_personal.errors import UserError
from ser_personal.report.comparison.run_record import DONE, RunRecord, StageCost, read_record
from ser_personal.report.run_folder import COST

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

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
