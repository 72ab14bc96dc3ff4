"""The mean of an utterance's frames."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from ser_personal.types import EncoderOutput


def mean_pool(output: EncoderOutput) -> Tensor:
    """Average the personalised frames over real frames alone, -> `pooled` (batch, dim).

    The authors' code averages over padded frames too, so that a prediction depends on its batch mates; this doesn't.
    """
    weights = output.frame_mask[..., None].to(output.frames.dtype)
    pooled: Tensor = (output.frames * weights).sum(1) / weights.sum(1).clamp(min=1)
    return pooled
