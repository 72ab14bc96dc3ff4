"""What a fit does about a loss that is NaN or infinite."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Literal, cast

import torch
from lightning.pytorch.callbacks import Callback
from torch.nn.modules.batchnorm import _BatchNorm

from ser_personal.errors import UserError
from ser_personal.ranges import require_range

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer
    from torch import Tensor
    from torch.optim import Optimizer

    from ser_personal.data.datamodule import SpeechDataModule
    from ser_personal.data.dataset import SpeechExample
    from ser_personal.types import SpeechBatch

NAMED = 8


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
        self._indices: list[int] = []
        self._is_bad = False
        self._in_a_row = 0
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
        self._indices = batch["indices"].tolist()
        self._before = [buffer.clone() for buffer in self._running]

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Look at the loss of every device.

        Raises:
            UserError: on every device, where one of them has a bad loss and the fit is to stop.
        """
        here = not bool(torch.isfinite(loss))
        anywhere = trainer.strategy.reduce(torch.tensor(float(here), device=loss.device), reduce_op="max")
        if not bool(anywhere):
            self._in_a_row = 0
            return
        self._in_a_row += 1
        whose = f"is {loss.item()} for {self._utterances(trainer)}" if here else "of another device is NaN or infinite"
        what = f"the loss {whose}"
        if self.action == "stop":
            remedy = (
                "Look at these recordings, lower --model.learning_rate, or leave such steps out: --bad_loss.action skip"
            )
            raise UserError(what, where=f"step {trainer.global_step}", remedy=remedy)
        if self._in_a_row > self.most_in_a_row:
            what = f"{what}, and {self.most_in_a_row} steps before it were left out for theirs"
            remedy = "The weights are lost: start again from an earlier checkpoint with a lower --model.learning_rate"
            raise UserError(what, where=f"step {trainer.global_step}", remedy=remedy)
        sys.stderr.write(f"ser: step {trainer.global_step} is left out: {what}\n")
        self._is_bad = True

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take back what the forward pass of a bad loss changed."""
        if self._in_a_row:
            for buffer, before in zip(self._running, self._before, strict=True):
                buffer.copy_(before)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Leave the step out: without gradients an optimiser changes nothing."""
        if self._is_bad:
            optimizer.zero_grad(set_to_none=True)
        self._is_bad = False

    def _utterances(self, trainer: Trainer) -> str:
        """Name the utterances of this device's batch."""
        data = cast("SpeechDataModule[SpeechExample, SpeechBatch]", trainer.datamodule)  # type: ignore[attr-defined]
        ids = [data.utterances[index].utterance_id for index in self._indices]
        more = f" and {len(ids) - NAMED} more" if len(ids) > NAMED else ""
        return ", ".join(ids[:NAMED]) + more
