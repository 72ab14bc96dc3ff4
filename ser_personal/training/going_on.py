"""Going on with a fit that was broken off: which checkpoint, and by which command."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# `--ckpt_path last`: from the newest checkpoint of the stage, or afresh where there is none
LAST = "last"


def was_requeued() -> bool:
    """Say whether SLURM runs this job again, after a preemption, a failed node or `scontrol requeue`."""
    return int(os.environ.get("SLURM_RESTART_COUNT", "0")) > 0


def newest_checkpoint(trainer: Mapping[str, Any]) -> Path | None:
    """Find what an earlier fit with these arguments of the trainer left; None where there is nothing."""
    folder = Path(trainer.get("default_root_dir") or ".")
    callbacks = [callback for callback in trainer.get("callbacks") or [] if "StageCheckpoint" in callback["class_path"]]
    left = [folder / f"{callback['init_args']['name']}-last.ckpt" for callback in callbacks]
    return next((path for path in left if path.is_file()), None)


def command_to_go_on(arguments: Sequence[str], checkpoint: str | Path) -> str:
    """Write down the command that goes on from a checkpoint.

    Args:
        arguments: of the command that was broken off, `fit` the first.
        checkpoint: it goes on from this one, whichever it started from.
    """
    kept: list[str] = []
    following = iter(arguments)
    for argument in following:
        if argument == "--ckpt_path":
            next(following, None)
        elif not argument.startswith("--ckpt_path="):
            kept.append(argument)
    return shlex.join(["ser", *kept, "--ckpt_path", str(checkpoint)])
