"""Masked prediction over a whole validation set and all devices."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torchmetrics import Metric

if TYPE_CHECKING:
    from torch import Tensor

    from ser_personal.pretrain.masked_prediction import MaskedPredictionLoss


class MaskedPredictionScores(NamedTuple):
    """How well masked frames are predicted.

    Attributes:
        loss: nats a masked frame (published losses are base 2: divide by 0.693).
        accuracy: share of masked frames whose own cluster was the likeliest.
        codebook_usage: share of the clusters that were predicted at least once; a model that has collapsed uses few.
    """

    loss: Tensor
    accuracy: Tensor
    codebook_usage: Tensor


class MaskedPredictionMetric(Metric):
    """Adds up masked prediction over batches and devices.

    Args:
        num_clusters: size of the codebook.
    """

    full_state_update = False
    loss: Tensor
    masked: Tensor
    correct: Tensor
    counts: Tensor

    def __init__(self, num_clusters: int) -> None:
        super().__init__()
        self.add_state("loss", torch.zeros(()), dist_reduce_fx="sum")
        for name in ("masked", "correct"):
            self.add_state(name, torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("counts", torch.zeros(num_clusters), dist_reduce_fx="sum")

    def update(self, prediction: MaskedPredictionLoss) -> None:
        """Add a batch."""
        self.loss += prediction.loss.detach()
        self.masked += prediction.masked
        self.correct += prediction.correct
        self.counts += torch.bincount(prediction.predicted, minlength=len(self.counts))

    def compute(self) -> MaskedPredictionScores:
        """Average over masked frames."""
        masked = self.masked.clamp(min=1)
        return MaskedPredictionScores(
            loss=self.loss / masked,
            accuracy=self.correct / masked,
            codebook_usage=(self.counts > 0).float().mean(),
        )
