"""Speaker-adversarial training: the encoder unlearns what distinguishes training speakers (a baseline)."""

from __future__ import annotations

from math import exp
from typing import TYPE_CHECKING, Any

import torch
from jsonargparse.typing import ClosedUnitInterval, PositiveInt
from torch import nn
from torch.nn import functional

from ser_personal.ranges import NonNegativeFinite

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

NOT_A_SPEAKER = -100


class GradientReversal(torch.autograd.Function):
    """The identity, whose gradient is multiplied by -weight (Ganin and Lempitsky 2015)."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, weight: float) -> Tensor:  # noqa: D102
        ctx.weight = weight
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # noqa: D102
        return -ctx.weight * gradient, None


class SpeakerAdversary(nn.Module):
    """Classifies training speakers by `pooled`, behind a gradient reversal: it learns to, the encoder to prevent it.

    Source: Ganin and Lempitsky 2015, their schedule included.

    Args:
        weight: of the reversed gradient, at most.
        ramp_share: share of all steps in which the weight climbs to that, from 0, along a sigmoid; 0 starts with it.
        hidden_dim: width of the classifier's hidden layer.
        dropout: of that layer.
    """

    def __init__(
        self,
        weight: NonNegativeFinite = 0.1,
        ramp_share: ClosedUnitInterval = 0.5,
        hidden_dim: PositiveInt = 128,
        dropout: ClosedUnitInterval = 0.1,
    ) -> None:
        super().__init__()
        self.weight, self.ramp_share = weight, ramp_share
        self.hidden_dim, self.dropout = hidden_dim, dropout
        self.speaker_ids: list[str] = []
        self.layers = nn.Sequential()

    def build(self, dim: int, speaker_ids: Sequence[str]) -> None:
        """Make the classifier of these speakers for `pooled` of width `dim`."""
        self.speaker_ids = list(speaker_ids)
        self.layers = nn.Sequential(
            nn.Linear(dim, self.hidden_dim),
            nn.ReLU(),
            nn.Dropout(self.dropout),
            nn.Linear(self.hidden_dim, len(self.speaker_ids)),
        )

    def weight_at(self, progress: float) -> float:
        """The reversed gradient's weight after this share of all steps."""
        climbs = progress < self.ramp_share
        return float(self.weight * (2 / (1 + exp(-10 * progress / self.ramp_share)) - 1 if climbs else 1))

    def forward(self, pooled: Tensor, speaker_ids: Sequence[str | None], progress: float) -> Tensor:
        """Mean cross-entropy of the known training speakers among a batch, nats; 0 where there are none.

        Args:
            pooled: (batch, dim).
            speaker_ids: (batch,), None where unknown.
            progress: share of all steps that are done.
        """
        row_of: dict[str | None, int] = {speaker_id: row for row, speaker_id in enumerate(self.speaker_ids)}
        targets = torch.tensor([row_of.get(id_, NOT_A_SPEAKER) for id_ in speaker_ids], device=pooled.device)
        logits = self.layers(GradientReversal.apply(pooled, self.weight_at(progress)))
        total = functional.cross_entropy(logits.float(), targets, ignore_index=NOT_A_SPEAKER, reduction="sum")
        return total / (targets != NOT_A_SPEAKER).sum().clamp(min=1)
