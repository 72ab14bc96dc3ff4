"""Masked prediction over a whole validation set and all devices."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

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
    """Adds up masked prediction over batches and devices, each batch once.

    Samplers repeat whole batches so that devices get equal numbers of them; repeats are known by their key.

    Args:
        num_clusters: size of the codebook.
    """

    full_state_update = False
    keys: list[Tensor]
    losses: list[Tensor]
    masked: list[Tensor]
    correct: list[Tensor]
    counts: Tensor

    def __init__(self, num_clusters: int) -> None:
        super().__init__()
        for name in ("keys", "losses", "masked", "correct"):
            self.add_state(name, default=[], dist_reduce_fx="cat")
        self.add_state("counts", torch.zeros(num_clusters), dist_reduce_fx="sum")

    def update(self, prediction: MaskedPredictionLoss, key: int) -> None:
        """Add a batch, whose key is the same for its repeats alone."""
        self.keys.append(torch.tensor([key], device=self.device))
        self.losses.append(prediction.loss.detach().view(1))
        self.masked.append(prediction.masked.view(1))
        self.correct.append(prediction.correct.view(1))
        self.counts += torch.bincount(prediction.predicted, minlength=len(self.counts))

    def compute(self) -> MaskedPredictionScores:
        """Average over masked frames."""
        # a batch that stands in for bad audio has nothing masked, and may have another batch's key
        keys = [(key, masked > 0) for key, masked in zip(*map(_values, (self.keys, self.masked)), strict=True)]
        once = [keys.index(key) for key in dict.fromkeys(keys)]
        masked = dim_zero_cat(self.masked)[once].sum().clamp(min=1)
        return MaskedPredictionScores(
            loss=dim_zero_cat(self.losses)[once].sum() / masked,
            accuracy=dim_zero_cat(self.correct)[once].sum() / masked,
            codebook_usage=(self.counts > 0).float().mean(),
        )


def _values(states: list[Tensor]) -> list[int]:
    values: list[int] = dim_zero_cat(states).tolist()
    return values
