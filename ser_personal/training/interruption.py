"""What stops training early: Ctrl-C, SIGTERM, SLURM's warning, a loss that isn't finite, a job of other tasks."""

import os
import signal
import threading
from collections.abc import Callable
from difflib import SequenceMatcher
from types import FrameType
from typing import Any, cast

import torch
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from torch import Tensor
from typing_extensions import override

from ser_personal.data.datamodule import SpeechDataModule
from ser_personal.errors import UserError
from ser_personal.training.checkpoints import Interrupted, StageCheckpoint, resumable
from ser_personal.types import SpeechBatch


class Interruption(Callback):
    """Stops training between two steps, the same two on every device, after a signal to any of its processes (ours).

    Lightning's own handlers save inside a step, or talk to the other devices from inside the handler, which may hang.
    SLURM's `--signal=USR1@120` is Lightning's to handle: it saves and asks for the job to be queued again. But a
    checkpoint from inside a step can't be resumed exactly, so that its handler, too, is called between two steps.
    """

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._received = 0
        self._requeue: Callable[[int, FrameType | None], Any] | None = None
        # Python lets no other thread handle signals
        if threading.current_thread() is not threading.main_thread():
            return
        signals = [signal.SIGINT, signal.SIGTERM]
        if "SLURM_JOB_ID" in os.environ and callable(handler := signal.getsignal(signal.SIGUSR1)):
            self._requeue = handler
            signals.append(signal.SIGUSR1)
        # Lightning restores the previous handlers when training ends
        for signum in signals:
            signal.signal(signum, self._note)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        stopping = self._received in {signal.SIGINT, signal.SIGTERM}
        self._received = signum
        if stopping:
            raise KeyboardInterrupt
        # Python's own files can't be written to from a handler that interrupts a write
        said = b"\nser: stopping after this step, or after the validation that runs; a second signal stops at once\n"
        os.write(2, said)

    @override
    def on_train_batch_end(self, trainer: Trainer, *_: Any, **__: Any) -> None:
        if resumable(trainer):
            self._act(trainer)

    @override
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if all(each.is_current(trainer) for each in trainer.checkpoint_callbacks if isinstance(each, StageCheckpoint)):
            # from what SLURM's handler would save here no fit is resumed exactly: it waits for the epoch's first step
            self._act(trainer, requeues=False)

    def _act(self, trainer: Trainer, *, requeues: bool = True) -> None:
        """Stop, or have the job queued again, on every device, once any has received a signal."""
        signum = self._received
        if trainer.world_size > 1:
            here = torch.tensor(signum, device=trainer.strategy.root_device)
            signum = int(trainer.strategy.reduce(here, reduce_op="max"))
        if self._requeue is not None and signum == signal.SIGUSR1:
            if requeues:
                self._received = 0
                self._requeue(signum, None)
        elif signum:
            raise Interrupted(signum)


class FiniteLoss(Callback):
    """Stops training, on all devices, at a loss that is NaN or infinite, before it changes a weight (ours)."""

    @override
    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: SpeechBatch, batch_idx: int
    ) -> None:
        self._indices = batch["indices"]

    @override
    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        self._loss = loss.detach()
        self._is_bad = trainer.strategy.reduce((~self._loss.isfinite()).float(), reduce_op="max")

    @override
    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # the first time that anything waits for the loss
        if self._is_bad:
            data = cast("SpeechDataModule[SpeechBatch]", trainer.datamodule)  # type: ignore[attr-defined]
            ids = [data.utterances[index].utterance_id for index in self._indices.tolist()]
            what = f"the loss of a device is NaN or infinite, that of this one {self._loss.item()} for {', '.join(ids)}"
            remedy = "Listen to these recordings, or lower --model.learning_rate"
            raise UserError(what, where=f"step {trainer.global_step}", remedy=remedy)


class KnownMonitors(Callback):
    """Refuses, before the first step, callbacks whose `monitor` misspells what the validation logs (ours).

    What training will log can't be known then, so any other name is left to Lightning, which looks after an epoch.
    """

    @override
    def on_sanity_check_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        logged = sorted(name for name in trainer.callback_metrics if name.startswith("val"))
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            monitor = str(getattr(callback, "monitor", None))
            waits = isinstance(callback, ModelCheckpoint) or (isinstance(callback, EarlyStopping) and callback.strict)
            meant = monitor.startswith(("val_", "valid")) or any(_one_letter_off(monitor, name) for name in logged)
            if waits and meant and monitor not in trainer.callback_metrics:
                where = f"--trainer.callbacks {type(callback).__name__}"
                remedy = f"Give as its monitor one of {', '.join(logged)}"
                raise UserError(f"the validation logs no {monitor}", where=where, remedy=remedy)


def _one_letter_off(name: str, known: str) -> bool:
    # not by the share of equal letters, which a training score may have: ema_valence_ccc
    blocks = SequenceMatcher(None, name.lower(), known, autojunk=False).get_matching_blocks()
    return max(len(name), len(known)) - sum(block.size for block in blocks) <= 1


def refuse_other_tasks(trainer: Trainer) -> None:
    """Under SLURM, refuse fewer tasks than devices, which would wait for others that never come, or more."""
    tasks, devices = os.environ.get("SLURM_NTASKS"), trainer.num_devices * trainer.num_nodes
    if tasks is not None and SLURMEnvironment.job_name() not in {"bash", "interactive"} and int(tasks) != devices:
        remedy = "Ask SLURM for --nodes and --ntasks-per-node, not --ntasks, and the command for as many"
        raise UserError(f"tasks: {tasks}, devices: {devices}", where="SLURM", remedy=remedy)
