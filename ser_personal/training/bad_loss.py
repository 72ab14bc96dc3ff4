"""What a fit does about a loss that is NaN or infinite."""

from __future__ import annotations

import sys
from math import isfinite
from typing import TYPE_CHECKING, Literal, NamedTuple, cast

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
