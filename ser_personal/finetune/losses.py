"""What fine-tuning for emotion attributes minimises, each a class."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from torch import nn

from ser_personal.finetune.concordance import ccc_loss

if TYPE_CHECKING:
    from torch import Tensor


class EmotionLoss(nn.Module, ABC):
    """From predictions and labels of a batch to a scalar; finite with finite gradients for any batch."""

    @abstractmethod
    def forward(self, predictions: Tensor, labels: Tensor) -> Tensor:
        """Compare predictions and labels, both (batch, attributes), label points; missing labels (NaN) are left out."""


class CCCLoss(EmotionLoss):
    """The mean of 1 - CCC over attributes (paper)."""

    def forward(self, predictions: Tensor, labels: Tensor) -> Tensor:
        """Compare predictions and labels, both (batch, attributes), label points; missing labels (NaN) are left out."""
        return ccc_loss(predictions, labels)
