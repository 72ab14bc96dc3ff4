"""Training curves of the fits behind a tested checkpoint, from the TensorBoard event files beside it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ser_personal.calibration.run_files import RunFolder

TRAINED = "train_loss"


@dataclass(frozen=True)
class Curve:
    """One logged value over training.

    Attributes:
        name: as it was logged.
        steps: (points,), optimiser steps.
        values: (points,).
    """

    name: str
    steps: tuple[int, ...]
    values: tuple[float, ...]


@dataclass(frozen=True)
class Fit:
    """One fit.

    Attributes:
        stage: name of the checkpoint it left, such as papt or finetune.
        curves: what it logged.
        steps: optimiser steps, up to the last logged.
        seconds: between its first and its last logged value.
    """

    stage: str
    curves: tuple[Curve, ...]
    steps: int
    seconds: float


def fits_behind(run: RunFolder) -> list[Fit]:
    """Find the fine-tuning that made the tested checkpoint, and before it the pre-training that it started from.

    Fits whose event files aren't beside their checkpoint are left out.
    """
    if run.checkpoint is None:
        return []
    checkpoint = _near(Path(run.checkpoint), run.folder)
    found = _fit(checkpoint)
    if found is None:
        return []
    fit, config = found
    source = config.get("model", {}).get("init_args", {}).get("papt_checkpoint")
    pretraining = None if source is None else _fit(_near(Path(source), checkpoint.parent))
    return [fit] if pretraining is None else [pretraining[0], fit]


def _near(path: Path, folder: Path) -> Path:
    """The path, or where the whole run was moved since, a folder above `folder` that holds such a file."""
    places = [path, *(parent / path.name for parent in (folder, *folder.absolute().parents[:3]))]
    return next((place for place in places if place.is_file()), path)


def _fit(checkpoint: Path) -> tuple[Fit, dict[str, Any]] | None:
    """The newest fit that wrote the checkpoint, by its config where it has one, and that config."""
    stage = checkpoint.stem.removesuffix("-last")
    newest: tuple[float, Fit, dict[str, Any]] | None = None
    for folder in sorted(checkpoint.parent.glob("lightning_logs/version_*")):
        config = _config(folder)
        if stage not in {*_checkpoint_names(config), *([stage] if not config else [])}:
            continue
        events = _scalars(folder)
        if TRAINED not in events:
            continue
        times = [event.wall_time for values in events.values() for event in values]
        curves = tuple(
            Curve(name, tuple(event.step for event in values), tuple(event.value for event in values))
            for name, values in events.items()
            if name.startswith(("train_", "val_"))
        )
        steps = 1 + max(step for curve in curves for step in curve.steps)
        if newest is None or max(times) > newest[0]:
            newest = max(times), Fit(stage, curves, steps, max(times) - min(times)), config
    return None if newest is None else newest[1:]


def _config(folder: Path) -> dict[str, Any]:
    import yaml

    path = folder / "config.yaml"
    content: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return content


def _checkpoint_names(config: dict[str, Any]) -> Iterator[str]:
    for callback in config.get("trainer", {}).get("callbacks") or []:
        if callback["class_path"].endswith(".StageCheckpoint"):
            yield callback["init_args"]["name"]


def _scalars(folder: Path) -> dict[str, Any]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return {name: events.Scalars(name) for name in events.Tags()["scalars"]}
