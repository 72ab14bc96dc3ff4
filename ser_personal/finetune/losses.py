"""What fine-tuning for emotion attributes minimises, each a class."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import torch
from torch import distributed, nn
from torch.distributed.nn.functional import all_gather
from torch.nn.functional import pad
from typing_extensions import override

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

    @override
    def forward(self, predictions: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
        return ccc_loss(predictions, labels, weights)


class MSELoss(EmotionLoss):
    """The mean squared error of each attribute, averaged over attributes."""

    @override
    def forward(self, predictions: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
        return labelled_mean((predictions - labels.nan_to_num()).square(), ~labels.isnan(), weights)


class GlobalBatchLoss(EmotionLoss):
    """A loss over the batches of all devices as if they were one, from which a CCC of small batches gains (ours).

    The mean of the devices' CCCs is not the CCC of their utterances.

    Args:
        loss: which one; the paper's 1 - CCC if None.
    """

    def __init__(self, loss: EmotionLoss | None = None) -> None:
        super().__init__()
        self.loss = loss or CCCLoss()

    @override
    def forward(self, predictions: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
        gathered = None if weights is None else gather_rows(weights[:, None])[:, 0]
        loss: Tensor = self.loss(gather_rows(predictions), gather_rows(labels), gathered)
        return loss


def labelled_mean(losses: Tensor, labelled: Tensor, weights: Tensor | None = None) -> Tensor:
    """Average losses (batch, columns) over the labelled utterances of each column, then over columns that have some.

    `weights` (batch,) say what each utterance counts. 0 where nothing is labelled.
    """
    counts = labelled.to(torch.promote_types(losses.dtype, torch.float32))
    if weights is not None:
        counts = counts * weights[:, None]
    totals = counts.sum(0)
    means = (losses * counts).sum(0) / totals.where(totals > 0, 1)
    return means.sum() / (totals > 0).sum().clamp(min=1)


def gather_rows(rows: Tensor) -> Tensor:
    """Join the rows of all processes, in the order of ranks; the rows themselves where there is one process.

    On their way back the gradients of all processes are added up. Each computes the same loss of all rows, so that the
    mean which DDP takes leaves the gradient of one loss.

    Args:
        rows: (n, columns); n may differ between processes and be 0, columns and type may not.

    Returns:
        (n of all processes, columns).
    """
    if not (distributed.is_available() and distributed.is_initialized()) or distributed.get_world_size() == 1:
        return rows
    sizes = [torch.zeros(1, dtype=torch.int64, device=rows.device) for _ in range(distributed.get_world_size())]
    distributed.all_gather(sizes, torch.tensor([len(rows)], device=rows.device))
    counts = torch.cat(sizes).tolist()
    # a collective takes equal shapes only
    padded = all_gather(pad(rows, (0, 0, 0, max(counts) - len(rows))))
    return torch.cat([part[:count] for part, count in zip(padded, counts, strict=True)])
