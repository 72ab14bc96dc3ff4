"""A run's folder: what is whole in it is kept, the rest is made again or gone on with."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING

from ser_personal.calibration.results import write_json
from ser_personal.calibration.speaker_moments import SPEAKER_MOMENTS
from ser_personal.errors import UserError
from ser_personal.report.comparison.run_record import (
    DONE,
    PretrainingScores,
    RunRecord,
    StageCost,
    read_record,
    read_stage,
    write_stage,
)
from ser_personal.study.stage import ROOT

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ser_personal.study.grid import GridRun
    from ser_personal.study.stage import Stage

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
        hashes[run.folder] = blake2b(json.dumps(content).encode(), digest_size=16).hexdigest()
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
    from ser_personal.encoder.checkpoint import read_checkpoint

    try:
        read_checkpoint(checkpoint)
    except UserError:
        return False
    return True
