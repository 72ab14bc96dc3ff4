"""Ctrl-C, SIGTERM and SLURM's warning: a fit ends between two steps, and what it leaves can be gone on with."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import threading
from math import isfinite
from pathlib import Path
from traceback import walk_tb
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast

import torch
from lightning.fabric.plugins.environments import slurm
from lightning.pytorch.callbacks import Callback
from torch.nn.modules.batchnorm import _BatchNorm

from ser_personal.errors import UserError, require_range
from ser_personal.training.checkpoints import Interrupted, StageCheckpoint, resumes_exactly

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import FrameType
    from typing import Any

    from lightning.pytorch import LightningModule, Trainer
    from torch import Tensor
    from torch.optim import Optimizer

    from ser_personal.data.datamodule import SpeechDataModule
    from ser_personal.data.dataset import SpeechExample
    from ser_personal.types import SpeechBatch

SLURM_JOB = "SLURM_JOB_ID"
NOTICE = b"\nser: stopping after this step, or after the validation that runs; a second signal stops at once\n"


class Interruption(Callback):
    """Ends a fit between two steps, the same two on every device, when any of its processes was told to stop.

    Lightning's own handlers save inside a step, or talk to the other devices from inside the handler, which may hang.
    SIGUSR1 counts under SLURM alone, whose `--signal=USR1@120` sends it before the time is up. Ours.
    """

    def __init__(self) -> None:
        self._received = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the signals over from Lightning, which gives them back to whom they belonged when the fit ends."""
        self._received = 0
        # only there does Python let anyone listen
        if threading.current_thread() is not threading.main_thread():
            return
        signals = [signal.SIGINT, signal.SIGTERM]
        for signum in [*signals, signal.SIGUSR1] if SLURM_JOB in os.environ else signals:
            signal.signal(signum, self._note)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if self._received:
            raise KeyboardInterrupt
        self._received = signum
        # Python's own files can't be written to from a handler that interrupts a write
        os.write(2, NOTICE)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop where a checkpoint can be made.

        Raises:
            Interrupted: on every device, once any has received a signal.
        """
        if resumes_exactly(trainer):
            self._stop_if_asked(trainer)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop where a checkpoint has just been made.

        Raises:
            Interrupted: on every device, once any has received a signal.
        """
        if all(kept.holds(trainer) for kept in trainer.checkpoint_callbacks if isinstance(kept, StageCheckpoint)):
            self._stop_if_asked(trainer)

    def _stop_if_asked(self, trainer: Trainer) -> None:
        signum = self._received
        if trainer.world_size > 1:
            here = torch.tensor(signum, device=trainer.strategy.root_device)
            signum = int(trainer.strategy.reduce(here, reduce_op="max"))
        if signum:
            raise Interrupted(signum)


def requeue() -> None:
    """Have SLURM run this job again."""
    task = os.environ.get("SLURM_ARRAY_TASK_ID")
    job = os.environ[SLURM_JOB] if task is None else f"{os.environ['SLURM_ARRAY_JOB_ID']}_{task}"
    subprocess.run(["scontrol", "requeue", job], check=True)  # noqa: S603, S607


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


NAMED = 8


class SeenLoss(NamedTuple):
    """The loss of a batch, still on its device.

    Attributes:
        value: scalar.
        is_bad: scalar, 1 where any device's is NaN or infinite, else 0.
        indices: (batch,), positions in the datamodule's `utterances`.
    """

    value: Tensor
    is_bad: Tensor
    indices: Tensor | None


class BadLoss(Callback):
    """Stops a fit at a loss that is NaN or infinite, or leaves the step out, on all devices alike.

    Ours. A step left out changes no weight, and no running mean of a batch normalisation; the learning rate goes on.

    Args:
        action: stop, or skip the step.
        most_in_a_row: steps left out one after another, at most; more mean that the weights are lost, and stop the fit.

    Raises:
        UserError: most_in_a_row is out of its range; while fitting, where the fit is to stop.
    """

    def __init__(self, action: Literal["stop", "skip"] = "stop", most_in_a_row: int = 10) -> None:
        require_range("most_in_a_row", most_in_a_row, 1)
        self.action, self.most_in_a_row = action, most_in_a_row
        self._in_a_row = 0
        self._indices: Tensor | None = None
        self._seen: list[SeenLoss] = []
        self._running: list[Tensor] = []
        self._before: list[Tensor] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find what a forward pass changes."""
        norms = [module for module in pl_module.modules() if isinstance(module, _BatchNorm)]
        self._running = [buffer for norm in norms for buffer in norm.buffers()] if self.action == "skip" else []

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: SpeechBatch, batch_idx: int
    ) -> None:
        """Remember whose the loss will be, and what it may spoil."""
        self._indices = batch["indices"]
        self._before = [buffer.clone() for buffer in self._running]

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Compare the losses of all devices; nobody waits for the result yet."""
        value = loss.detach()
        is_bad = trainer.strategy.reduce((~value.isfinite()).float(), reduce_op="max")
        self._seen.append(SeenLoss(value, cast("Tensor", is_bad), self._indices))

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take back what the forward pass of a bad loss changed."""
        for buffer, before in zip(self._running, self._before, strict=True):
            buffer.copy_(torch.where(self._seen[-1].is_bad > 0, before, buffer))

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Leave the step out: without gradients an optimiser changes nothing.

        Raises:
            UserError: on every device, where one of them has a bad loss and the fit is to stop.
        """
        seen, self._seen = self._seen, []
        bad = [
            loss
            for loss, is_bad in zip(seen, torch.stack([one.is_bad for one in seen]).tolist(), strict=True)
            if is_bad
        ]
        if not bad:
            self._in_a_row = 0
            return
        self._in_a_row += 1
        what = f"the loss {'; '.join(self._told(trainer, loss) for loss in bad)}"
        if self.action == "stop":
            remedy = "Look at these recordings, lower --model.learning_rate, or skip such steps: --bad_loss.action skip"
            raise UserError(what, where=f"step {trainer.global_step}", remedy=remedy)
        if self._in_a_row > self.most_in_a_row:
            what = f"{what}, and {self.most_in_a_row} steps before it were left out for theirs"
            remedy = "The weights are lost: start again from an earlier checkpoint with a lower --model.learning_rate"
            raise UserError(what, where=f"step {trainer.global_step}", remedy=remedy)
        sys.stderr.write(f"ser: step {trainer.global_step} is left out: {what}\n")
        optimizer.zero_grad(set_to_none=True)

    def _told(self, trainer: Trainer, loss: SeenLoss) -> str:
        """Say what a loss was and, where it was this device's, of which utterances."""
        value = loss.value.item()
        if isfinite(value) or loss.indices is None:
            return "of another device is NaN or infinite"
        data = cast("SpeechDataModule[SpeechExample, SpeechBatch]", trainer.datamodule)  # type: ignore[attr-defined]
        ids = [data.utterances[index].utterance_id for index in loss.indices.tolist()]
        more = f" and {len(ids) - NAMED} more" if len(ids) > NAMED else ""
        return f"is {value} for {', '.join(ids[:NAMED])}{more}"
