"""done.json: what a run of a study was, and what each of its commands cost."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, Self

from ser_personal.calibration.results import write_json
from ser_personal.errors import UserError
from ser_personal.training.stage_checkpoint import SCORES

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
