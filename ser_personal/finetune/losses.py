"""What fine-tuning for emotion attributes minimises, each a class."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import torch
from torch import nn

from ser_personal.finetune.concordance import ccc_loss
from ser_personal.ranges import require_range

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
