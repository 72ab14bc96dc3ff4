from __future__ import annotations

import torch

from ser_personal.encoder.base import mean_pool
from ser_personal.types import EncoderOutput


def test_mean_over_real_frames_alone():
    torch.manual_seed(0)
    frames, lengths = torch.randn(3, 7, 4), [7, 2, 1]
    frame_mask = torch.arange(7) < torch.tensor(lengths)[:, None]
    pooled = mean_pool(EncoderOutput(frames, frame_mask))
    for row, length in enumerate(lengths):
        for column in range(4):
            slow = sum(frames[row, t, column].item() for t in range(length)) / length
            assert abs(pooled[row, column].item() - slow) < 1e-6


def test_what_the_padding_holds_does_not_matter():
    frames, frame_mask = torch.randn(1, 4, 2), torch.tensor([[True, True, False, False]])
    changed = torch.cat([frames[:, :2], 1e6 * torch.ones(1, 2, 2)], dim=1)
    torch.testing.assert_close(
        mean_pool(EncoderOutput(frames, frame_mask)), mean_pool(EncoderOutput(changed, frame_mask))
    )


def test_an_utterance_without_frames_pools_to_zero():
    pooled = mean_pool(EncoderOutput(torch.randn(1, 3, 2), torch.zeros(1, 3, dtype=torch.bool)))
    assert pooled.tolist() == [[0, 0]]
