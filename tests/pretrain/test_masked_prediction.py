import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy
from torchaudio.models.wav2vec2.components import LogitGenerator

from ser_personal import PredictionHead, masked_prediction_loss, span_mask
from ser_personal.pretrain.masked_prediction import MaskedPredictionLoss, MaskedPredictionMetric

DIM, CLUSTERS, FINAL_DIM = 12, 7, 5
LENGTHS = st.lists(st.integers(0, 120), min_size=1, max_size=6).filter(any)


@pytest.fixture
def batch():
    torch.manual_seed(0)
    return torch.randn(3, 9, DIM), torch.randint(CLUSTERS, (3, 9)), torch.rand(3, 9) < 0.5


def test_loss_and_gradients_are_those_of_torchaudio(batch):
    frames, pseudo_labels, masked = batch
    # torchaudio has no frames without a pseudo-label: they are left out, as if they weren't masked
    time_mask = masked & (torch.arange(9) < 6)
    padded = pseudo_labels.clone()
    padded[:, 6:] = -100
    ours = PredictionHead(DIM, CLUSTERS, FINAL_DIM)
    theirs = LogitGenerator(DIM, CLUSTERS, FINAL_DIM, skip_masked=False, skip_nomask=True)
    theirs.load_state_dict(ours.state_dict())
    our_frames, their_frames = frames.clone().requires_grad_(), frames.clone().requires_grad_()
    outcome = masked_prediction_loss(our_frames, padded, masked, ours)
    our_loss = outcome.loss
    assert outcome.masked == time_mask.sum() < masked.sum()
    logits, _ = theirs(their_frames, pseudo_labels, time_mask, ~time_mask)
    # torchaudio puts the right cluster first.
    their_loss = cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long), reduction="sum")
    our_loss.backward()
    their_loss.backward()
    assert outcome.correct == (logits.argmax(1) == 0).sum()
    torch.testing.assert_close(our_loss, their_loss, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(our_frames.grad, their_frames.grad, rtol=1e-4, atol=1e-4)
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, theirs.get_parameter(name).grad, rtol=1e-4, atol=1e-4)


def test_nothing_masked_is_a_loss_of_zero_that_reaches_every_parameter(batch):
    frames, pseudo_labels, _ = batch
    head = PredictionHead(DIM, CLUSTERS, FINAL_DIM)
    frames.requires_grad_()
    outcome = masked_prediction_loss(frames, pseudo_labels, torch.zeros(3, 9, dtype=torch.bool), head)
    outcome.loss.backward()
    assert (outcome.loss.item(), outcome.masked.item(), outcome.correct.item()) == (0.0, 0, 0)
    assert not frames.grad.any()
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in head.parameters())


def test_logits_are_float32_and_the_same_under_autocast(batch):
    head = PredictionHead(DIM, CLUSTERS, FINAL_DIM)
    frames = batch[0].flatten(0, 1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under_autocast = head(frames)
    assert under_autocast.dtype == torch.float32
    assert torch.equal(under_autocast, head(frames))
    assert head.bfloat16()(frames).dtype == torch.float32


def outcome_of(loss: float, wanted: list[int], predicted: list[int]) -> MaskedPredictionLoss:
    ids = torch.tensor(predicted, dtype=torch.long)
    correct = (ids == torch.tensor(wanted, dtype=torch.long)).sum()
    return MaskedPredictionLoss(torch.tensor(loss, requires_grad=True), torch.tensor(len(wanted)), correct, ids)


@pytest.mark.parametrize("repeats", [1, 2])
def test_batches_weigh_by_their_masked_frames_and_count_once_however_often_a_sampler_repeats_them(repeats):
    metric = MaskedPredictionMetric(num_clusters=8)
    metric.update(outcome_of(9.0, [7, 7], [7, 7]), key=0)
    metric.reset()
    metric.update(outcome_of(0.0, [], []), key=0)
    assert [*map(float, metric.compute().values())] == [0, 0, 0]
    for _ in range(repeats):
        metric.update(outcome_of(6.0, [0, 1, 2], [0, 1, 1]), key=4)
    metric.update(outcome_of(1.0, [5], [5]), key=3)
    scores = metric.compute()
    assert not scores["loss"].requires_grad
    # 0, 1 and 5 of eight clusters
    assert [*map(float, scores.values())] == pytest.approx([7 / 4, 3 / 4, 3 / 8])


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


@settings(max_examples=200)
@given(LENGTHS, st.floats(0, 1), st.integers(1, 20), st.integers(1, 5), st.integers(0, 2**31))
def test_masks_a_part_of_the_real_frames_of_every_row(lengths, prob, span, least, seed):
    mask = span_mask(torch.tensor(lengths), prob, span, least, torch.Generator().manual_seed(seed))
    assert (mask.dtype, mask.shape) == (torch.bool, (len(lengths), max(lengths)))
    for row, frames in zip(mask, lengths, strict=True):
        assert not row[frames:].any()
        assert not row[max(0, frames - 1) :].any()
        assert row.any() == (frames >= 2)


@pytest.mark.parametrize(("frames", "prob", "span", "least"), [(30, 0.8, 10, 2), (100, 0.65, 10, 2), (100, 0.3, 4, 5)])
def test_every_frame_is_masked_as_often_as_by_fairseq(frames, prob, span, least):
    rng = np.random.default_rng(0)
    slow = np.stack([fairseq_mask(frames, prob, span, least, rng) for _ in range(4000)])
    fast = span_mask(torch.full((4000,), frames), prob, span, least, torch.Generator().manual_seed(0)).numpy()
    assert fast.mean() == pytest.approx(slow.mean(), abs=0.005)
    assert fast.mean(1).std() == pytest.approx(slow.mean(1).std(), abs=0.005)
    np.testing.assert_allclose(fast.mean(0), slow.mean(0), atol=0.05)
