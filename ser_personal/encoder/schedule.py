"""The learning rate over a fit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.optim.lr_scheduler import LambdaLR

if TYPE_CHECKING:
    from torch.optim import Optimizer


def linear_warmup_and_decay(optimizer: Optimizer, total_steps: int, warmup_share: float) -> LambdaLR:
    """Let each group's rate climb linearly to its peak over a share of all steps, and fall to 0 over the rest."""
    warmup = max(1, round(total_steps * warmup_share))

    def scale(step: int) -> float:
        return min((step + 1) / warmup, max(0.0, (total_steps - step) / max(1, total_steps - warmup)))

    return LambdaLR(optimizer, scale)
