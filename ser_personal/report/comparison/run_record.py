"""done.json: what a run of a study was, and what each of its commands cost."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

from ser_personal.calibration.results import write_json
from ser_personal.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

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
        return RunRecord(**content | {"needs": tuple(content["needs"]), "stages": stages})
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
