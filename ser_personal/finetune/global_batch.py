"""The batch of all devices, for a loss that isn't a mean over utterances."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import distributed

from ser_personal.finetune.losses import CCCLoss, EmotionLoss

if TYPE_CHECKING:
    from torch import Tensor


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
