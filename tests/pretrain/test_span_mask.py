from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ser_personal.pretrain.masked_prediction import span_mask


def fairseq_mask(frames: int, prob: float, length: int, min_masks: int, rng: np.random.Generator) -> np.ndarray:
    """One row at a time, as fairseq draws it."""
    spans = max(min_masks, int(prob * frames / length + rng.random()))
    starts_until = frames - length
    if starts_until <= spans:
        starts_until = spans + 1
    mask = np.zeros(frames, dtype=bool)
    for start in rng.choice(starts_until, spans, replace=False):
        mask[start : start + length] = True
    return mask


def runs(row: torch.Tensor) -> list[int]:
    edges = torch.diff(row.int(), prepend=torch.zeros(1), append=torch.zeros(1))
    return ((edges == -1).nonzero() - (edges == 1).nonzero()).flatten().tolist()


@settings(max_examples=200, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 120), min_size=1, max_size=6).filter(any),
    prob=st.floats(0, 1),
    length=st.integers(1, 20),
    min_masks=st.integers(1, 5),
    seed=st.integers(0, 2**31),
)
def test_masks_a_part_of_the_real_frames_of_every_row(lengths, prob, length, min_masks, seed):
    mask = span_mask(torch.tensor(lengths), prob, length, min_masks, torch.Generator().manual_seed(seed))
    assert mask.dtype == torch.bool
    assert mask.shape == (len(lengths), max(lengths))
    for row, frames in zip(mask, lengths, strict=True):
        assert not row[frames:].any()
        assert not row[max(0, frames - 1) :].any()
        assert row.any() == (frames >= 2)


@settings(max_examples=100, deadline=None)
@given(frames=st.integers(40, 200), length=st.integers(1, 12), seed=st.integers(0, 2**31))
def test_spans_of_a_long_row_have_their_full_length_and_number(frames, length, seed):
    mask = span_mask(torch.tensor([frames]), 0.3, length, 2, torch.Generator().manual_seed(seed))[0]
    most_spans = max(2, int(0.3 * frames / length) + 1)
    assert min(runs(mask)) >= length
    assert mask.sum() <= most_spans * length


@pytest.mark.parametrize("frames", [30, 100, 499])
@pytest.mark.parametrize(("prob", "length", "min_masks"), [(0.8, 10, 2), (0.65, 10, 2), (0.3, 4, 5)])
def test_every_frame_is_masked_as_often_as_by_fairseq(frames, prob, length, min_masks):
    rng = np.random.default_rng(0)
    draws = 4000
    slow = np.stack([fairseq_mask(frames, prob, length, min_masks, rng) for _ in range(draws)])
    lengths = torch.full((draws,), frames)
    fast = span_mask(lengths, prob, length, min_masks, torch.Generator().manual_seed(0)).numpy()
    assert fast.mean() == pytest.approx(slow.mean(), abs=0.005)
    assert fast.mean(1).std() == pytest.approx(slow.mean(1).std(), abs=0.005)
    np.testing.assert_allclose(fast.mean(0), slow.mean(0), atol=0.05)


def test_number_of_spans_is_dithered_and_never_below_its_minimum():
    generator = torch.Generator().manual_seed(0)
    # 12 frames at 0.25 ask for 3 spans of one frame, 10 frames for 2.5.
    whole = span_mask(torch.full((500,), 12), 0.25, 1, 0, generator).sum(1)
    half = span_mask(torch.full((2000,), 10), 0.25, 1, 0, generator).sum(1).float()
    least = span_mask(torch.full((500,), 10), 0.0, 1, 4, generator).sum(1)
    assert (whole == 3).all()
    assert set(half.tolist()) == {2.0, 3.0}
    assert half.mean() == pytest.approx(2.5, abs=0.05)
    assert (least == 4).all()


def test_no_spans_when_none_are_asked_for():
    assert not span_mask(torch.tensor([50, 20]), prob=0.0, min_masks=0).any()


def test_a_row_does_not_depend_on_its_padding():
    long = span_mask(torch.full((3000,), 40), generator=torch.Generator().manual_seed(1))
    padded = span_mask(torch.tensor([40] * 3000 + [90]), generator=torch.Generator().manual_seed(2))[:3000, :40]
    torch.testing.assert_close(long.float().mean(0), padded.float().mean(0), atol=0.05, rtol=0)


def test_a_generator_repeats_its_masks_and_advances():
    lengths = torch.tensor([80, 33, 5])
    first, again = torch.Generator().manual_seed(3), torch.Generator().manual_seed(3)
    mask = span_mask(lengths, generator=first)
    assert torch.equal(mask, span_mask(lengths, generator=again))
    assert not torch.equal(mask, span_mask(lengths, generator=first))
