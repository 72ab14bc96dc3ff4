"""SLURM's tasks and a trainer's devices, which have to be equally many."""

from __future__ import annotations

import os
from traceback import walk_tb
from typing import TYPE_CHECKING

from lightning.fabric.plugins.environments import slurm

from ser_personal.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable

    from lightning.pytorch import Trainer

REMEDY = (
    "Ask SLURM for --nodes and --ntasks-per-node, not --ntasks, and the command for as many nodes and devices; "
    "SLURM_JOB_NAME=interactive starts one process that minds no tasks"
)


def trainer_for_tasks(make: Callable[[], Trainer]) -> Trainer:
    """Make a trainer; outside of SLURM, any.

    Were there more tasks than devices, each would do the whole work and write the same files; were there fewer, they
    would wait for others that never come.

    Args:
        make: makes it.

    Raises:
        UserError: SLURM started another number of tasks than it has devices, or left out a variable.
    """
    try:
        trainer = make()
        if starts_tasks():
            # Lightning asks this itself, but late, and not of a single device
            slurm.SLURMEnvironment().validate_settings(trainer.num_devices, trainer.num_nodes)
    except (KeyError, RuntimeError, ValueError) as error:
        if not any(frame.f_globals["__name__"] == slurm.__name__ for frame, _ in walk_tb(error.__traceback__)):
            raise
        missing = f"{error.args[0]} isn't set" if isinstance(error, KeyError) else None
        raise UserError(missing or str(error).partition(". HINT")[0], where="SLURM", remedy=REMEDY) from error
    devices = trainer.num_devices * trainer.num_nodes
    if starts_tasks() and (tasks := int(os.environ["SLURM_NTASKS"])) != devices:
        raise UserError(f"tasks: {tasks}, devices: {devices}", where="SLURM", remedy=REMEDY)
    return trainer


def starts_tasks() -> bool:
    """Whether this process is one of SLURM's tasks; as for Lightning, a shell on a node is none."""
    return "SLURM_NTASKS" in os.environ and slurm.SLURMEnvironment.job_name() not in ("bash", "interactive")
