"""The optimizer of a fit, and its learning rate."""

from __future__ import annotations

from math import isinf
from typing import TYPE_CHECKING, Any

from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from ser_personal.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lightning.pytorch import Trainer
    from torch.optim import Optimizer


def adamw(groups: Iterable[Any], trainer: Trainer, **settings: Any) -> AdamW:
    """Make AdamW, on a GPU as one fused kernel, but for float16: what scales its gradients can't be clipped then."""
    on_gpu = trainer.strategy.root_device.type == "cuda"
    scales = getattr(trainer.precision_plugin, "scaler", None) is not None
    return AdamW(groups, fused=True if on_gpu and not scales else None, **settings)


def is_fused(optimizer: Optimizer) -> bool:
    """Whether the optimizer runs as one fused kernel."""
    return bool(optimizer.defaults.get("fused"))


def linear_warmup_and_decay(optimizer: Optimizer, total_steps: float, warmup_share: float) -> LambdaLR:
    """Let each group's rate climb linearly to its peak over a share of all steps, and fall to 0 over the rest.

    Raises:
        UserError: the steps are infinite, as the trainer estimates them where a fit has no end.
    """
    if isinf(total_steps):
        raise UserError(
            "the learning rate falls to 0 at the end, and there is none",
            where="--trainer.max_epochs",
            remedy="Give max_epochs or max_steps",
        )
    warmup = max(1, round(total_steps * warmup_share))

    def scale(step: int) -> float:
        return min((step + 1) / warmup, max(0.0, (total_steps - step) / max(1, total_steps - warmup)))

    return LambdaLR(optimizer, scale)
