"""Which frames of a padded batch are real, and their mean."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ser_personal.audio import num_frames

if TYPE_CHECKING:
    from torch import Tensor

    from ser_personal.types import EncoderOutput


def real_frames(num_samples: Tensor, frames: int) -> Tensor:
    """Mark among `frames` padded frames those of utterances of so many samples (batch,), -> (batch, frames)."""
    return torch.arange(frames, device=num_samples.device) < num_frames(num_samples)[:, None]


def mean_pool(output: EncoderOutput) -> Tensor:
    """Average the personalised frames over real frames alone, -> `pooled` (batch, dim).

    The authors' code averages over padded frames too, so that a prediction depends on its batch mates; this doesn't.
    """
    weights = output.frame_mask[..., None].to(output.frames.dtype)
    pooled: Tensor = (output.frames * weights).sum(1) / weights.sum(1).clamp(min=1)
    return pooled
