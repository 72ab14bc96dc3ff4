"""What fine-tuning for emotion attributes minimises, each a class."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import torch
from torch import distributed, nn

from ser_personal.errors import require_range
from ser_personal.finetune.concordance import ccc_loss

if TYPE_CHECKING:
    from torch import Tensor


class EmotionLoss(nn.Module, ABC):
    """From predictions and labels of a batch to a scalar; finite with finite gradients for any batch."""

    @abstractmethod
    def forward(self, predictions: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
        """Compare predictions and labels.

        Args:
            predictions: (batch, attributes), label points.
            labels: (batch, attributes), label points; missing ones (NaN) are left out.
            weights: (batch,), what each utterance counts, not below 0; all alike if None.
        """


class CCCLoss(EmotionLoss):
    """The mean of 1 - CCC over attributes (paper)."""

    def forward(self, predictions: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
        """Compare predictions and labels; see `EmotionLoss`."""
        return ccc_loss(predictions, labels, weights)


class MSELoss(EmotionLoss):
    """The mean squared error of each attribute, averaged over attributes."""

    def forward(self, predictions: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
        """Compare predictions and labels; see `EmotionLoss`."""
        return _mean_error((predictions - labels.nan_to_num()).square(), ~labels.isnan(), weights)


class MAELoss(EmotionLoss):
    """The mean absolute error of each attribute, averaged over attributes."""

    def forward(self, predictions: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
        """Compare predictions and labels; see `EmotionLoss`."""
        return _mean_error((predictions - labels.nan_to_num()).abs(), ~labels.isnan(), weights)


class CCCPlusMSE(EmotionLoss):
    """1 - CCC and the mean squared error together.

    Args:
        weight: of the mean squared error, in square label points.

    Raises:
        UserError: it is negative.
    """

    def __init__(self, weight: float = 1.0) -> None:
        require_range("weight", weight, 0)
        super().__init__()
        self.weight = weight
        self.mse = MSELoss()

    def forward(self, predictions: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
        """Compare predictions and labels; see `EmotionLoss`."""
        error: Tensor = self.mse(predictions, labels, weights)
        return ccc_loss(predictions, labels, weights) + self.weight * error


def _mean_error(errors: Tensor, labelled: Tensor, weights: Tensor | None) -> Tensor:
    """Average errors (batch, attributes) over the labelled utterances of each attribute, then over attributes."""
    counts = labelled.to(torch.promote_types(errors.dtype, torch.float32))
    if weights is not None:
        counts = counts * weights[:, None]
    totals = counts.sum(0)
    means = (errors * counts).sum(0) / totals.where(totals > 0, 1)
    return means.sum() / (totals > 0).sum().clamp(min=1)


class GlobalBatchLoss(EmotionLoss):
    """A loss over the batches of all devices as if they were one, which a CCC of small batches gains by (ours).

    Args:
        loss: which one; the paper's 1 - CCC if None.
    """

    def __init__(self, loss: EmotionLoss | None = None) -> None:
        super().__init__()
        self.loss = loss or CCCLoss()

    def forward(self, predictions: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
        """Compare predictions and labels of all devices; see `EmotionLoss`."""
        rows = [gather_rows(predictions), gather_rows(labels)]
        if weights is not None:
            rows.append(gather_rows(weights[:, None])[:, 0])
        loss: Tensor = self.loss(*rows)
        return loss


def gather_rows(rows: Tensor) -> Tensor:
    """Join the rows of all processes, so that a CCC is that of the whole batch; the rows themselves where there is one.

    The mean of the devices' CCCs is not the CCC of their utterances. Where every process computes one loss from all
    rows, its gradient is the sum over processes of what reaches their own rows. DDP takes the mean instead, so the
    gradient is multiplied by the number of processes on its way back; nothing is sent there. Ours.

    Args:
        rows: (n, columns); n may differ between processes and be 0, columns and type may not.

    Returns:
        (n of all processes, columns), in the order of ranks.
    """
    if not (distributed.is_available() and distributed.is_initialized()) or distributed.get_world_size() == 1:
        return rows
    processes, rank = distributed.get_world_size(), distributed.get_rank()
    sizes = [torch.zeros(1, dtype=torch.int64, device=rows.device) for _ in range(processes)]
    distributed.all_gather(sizes, torch.tensor([len(rows)], device=rows.device))
    counts = torch.cat(sizes).tolist()
    # a collective takes equal shapes only
    padded = rows.new_zeros(max(counts), rows.shape[1])
    padded[: len(rows)] = rows.detach()
    gathered = [torch.empty_like(padded) for _ in range(processes)]
    distributed.all_gather(gathered, padded)
    parts = [part[:count] for part, count in zip(gathered, counts, strict=True)]
    parts[rank] = _MultiplyGradient.apply(rows, processes)
    return torch.cat(parts)


class _MultiplyGradient(torch.autograd.Function):
    """The same values; their gradient times a factor."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, factor: int) -> Tensor:
        ctx.factor = factor
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] * ctx.factor, None
