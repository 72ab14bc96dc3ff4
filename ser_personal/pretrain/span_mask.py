"""Which frames masked prediction hides: random spans of real frames."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Generator, Tensor


def span_mask(
    lengths: Tensor,
    prob: float = 0.8,
    length: int = 10,
    min_masks: int = 2,
    generator: Generator | None = None,
) -> Tensor:
    """Draw spans of masked frames for each row, none of them on padding.

    A row of n frames gets max(min_masks, floor(prob * n / length + u)) spans with u uniform in [0, 1). Their starts are
    drawn without replacement; spans may overlap, which leaves the masked share well below `prob`. A row too short for
    its spans gets shorter ones, and at last fewer: its last frame always stays unmasked, and with `min_masks` of at
    least 1 a row of two frames or more always has a masked one. A row of one frame, or of none, has nothing masked.

    Source: fairseq's `compute_mask_indices`, static lengths with overlap, which draws its starts likewise. We depart
    from it in two places: rows aren't thinned to the batch's smallest number of masked frames, and a short row is never
    masked whole.

    Args:
        lengths: (batch,), real frames of each row, on any device.
        prob: spans times their length, as a share of the row.
        length: frames of a span.
        min_masks: least number of spans of a row.
        generator: source of random numbers, on the CPU or on the device of `lengths`; torch's own if None.

    Returns:
        (batch, max frames), True on masked frames.
    """
    frames = int(lengths.max())
    batch, device = len(lengths), lengths.device
    source = device if generator is None else generator.device
    dither = torch.rand(batch, generator=generator, device=source).to(device)
    scores = torch.rand(batch, frames, generator=generator, device=source).to(device)

    spans = (prob * lengths / length + dither).long().clamp(min=min_masks).minimum(lengths - 1).clamp(min=0)
    span_length = (lengths - spans).clamp(max=length)
    starts_allowed = torch.arange(frames, device=device) < (lengths - span_length)[:, None]
    most = int(spans.max())
    starts = scores.masked_fill(~starts_allowed, -1.0).topk(most, dim=1).indices
    drawn = (torch.arange(most, device=device) < spans[:, None]).int()

    edges = torch.zeros(batch, frames + 1, dtype=torch.int, device=device)
    edges.scatter_add_(1, starts, drawn)
    edges.scatter_add_(1, (starts + span_length[:, None]).clamp(max=frames), -drawn)
    return edges.cumsum(1)[:, :frames] > 0
