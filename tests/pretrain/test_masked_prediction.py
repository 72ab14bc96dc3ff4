from __future__ import annotations

import math

import pytest
import torch
from safetensors.torch import save_file
from torch.nn.functional import cross_entropy
from torchaudio.models.wav2vec2.components import LogitGenerator

from ser_personal.errors import UserError
from ser_personal.pretrain.masked_prediction import PredictionHead, masked_prediction_loss

DIM, CLUSTERS, FINAL_DIM = 12, 7, 5


@pytest.fixture
def batch():
    torch.manual_seed(0)
    frames = torch.randn(3, 9, DIM)
    pseudo_labels = torch.randint(CLUSTERS, (3, 9))
    return frames, pseudo_labels, torch.rand(3, 9) < 0.5


def slow_loss(frames, pseudo_labels, time_mask, head):
    """One frame and one cluster at a time, in Python floats."""
    weight, bias = head.final_proj.weight.tolist(), head.final_proj.bias.tolist()
    total = 0.0
    for frame, wanted in zip(frames[time_mask].tolist(), pseudo_labels[time_mask].tolist(), strict=True):
        projected = [
            sum(w * x for w, x in zip(row, frame, strict=True)) + b for row, b in zip(weight, bias, strict=True)
        ]
        scores = []
        for cluster in head.label_embeddings.tolist():
            dot = sum(p * c for p, c in zip(projected, cluster, strict=True))
            scores.append(dot / math.hypot(*projected) / math.hypot(*cluster) / 0.1)
        total += math.log(sum(math.exp(s) for s in scores)) - scores[wanted]
    return total


def test_loss_is_that_of_a_slow_loop(batch):
    head = PredictionHead(DIM, CLUSTERS, FINAL_DIM)
    outcome = masked_prediction_loss(*batch, head)
    assert outcome.loss.item() == pytest.approx(slow_loss(*batch, head), rel=1e-5)
    assert outcome.masked == batch[2].sum()


def test_loss_and_gradients_are_those_of_torchaudio(batch):
    frames, pseudo_labels, time_mask = batch
    ours = PredictionHead(DIM, CLUSTERS, FINAL_DIM)
    theirs = LogitGenerator(DIM, CLUSTERS, FINAL_DIM, skip_masked=False, skip_nomask=True)
    theirs.load_state_dict(ours.state_dict())
    our_frames, their_frames = frames.clone().requires_grad_(), frames.clone().requires_grad_()

    our_loss = masked_prediction_loss(our_frames, pseudo_labels, time_mask, ours).loss
    logits, _ = theirs(their_frames, pseudo_labels, time_mask, ~time_mask)
    # torchaudio puts the right cluster first.
    their_loss = cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long), reduction="sum")
    our_loss.backward()
    their_loss.backward()

    torch.testing.assert_close(our_loss, their_loss, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(our_frames.grad, their_frames.grad, rtol=1e-4, atol=1e-4)
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, theirs.get_parameter(name).grad, rtol=1e-4, atol=1e-4)


def test_correct_counts_frames_whose_own_cluster_scores_highest():
    head = PredictionHead(2, 3, final_dim=2)
    with torch.no_grad():
        head.final_proj.weight.copy_(torch.eye(2))
        head.final_proj.bias.zero_()
        head.label_embeddings.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]))
    frames = torch.tensor([[[5.0, 0.1], [0.1, 9.0], [-3.0, 0.0], [2.0, 0.0]]])
    outcome = masked_prediction_loss(
        frames, torch.tensor([[0, 1, 1, 2]]), torch.tensor([[True, True, True, False]]), head
    )
    assert outcome.predicted.tolist() == [0, 1, 2]
    assert (outcome.masked.item(), outcome.correct.item()) == (3, 2)


def test_nothing_masked_is_a_loss_of_zero_that_reaches_every_parameter(batch):
    frames, pseudo_labels, _ = batch
    head = PredictionHead(DIM, CLUSTERS, FINAL_DIM)
    frames.requires_grad_()
    outcome = masked_prediction_loss(frames, pseudo_labels, torch.zeros(3, 9, dtype=torch.bool), head)
    outcome.loss.backward()
    assert (outcome.loss.item(), outcome.masked.item(), outcome.correct.item()) == (0.0, 0, 0)
    assert not frames.grad.any()
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in head.parameters())


def test_frames_without_a_pseudo_label_are_left_out(batch):
    frames, pseudo_labels, time_mask = batch
    head = PredictionHead(DIM, CLUSTERS, FINAL_DIM)
    padded = pseudo_labels.clone()
    padded[:, 6:] = -100
    real = torch.arange(9) < 6
    outcome = masked_prediction_loss(frames, padded, time_mask, head)
    expected = masked_prediction_loss(frames, pseudo_labels, time_mask & real, head)
    assert torch.equal(outcome.loss, expected.loss)
    assert outcome.masked == (time_mask & real).sum()


def test_logits_are_float32_and_the_same_under_autocast(batch):
    head = PredictionHead(DIM, CLUSTERS, FINAL_DIM)
    frames = batch[0].flatten(0, 1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under_autocast = head(frames)
    assert under_autocast.dtype == torch.float32
    assert torch.equal(under_autocast, head(frames))
    assert head.bfloat16()(frames).dtype == torch.float32


def test_label_embeddings_start_uniform_in_0_to_1():
    values = PredictionHead(4, 500).label_embeddings.detach()
    assert values.min() >= 0
    assert values.max() < 1
    assert values.mean() == pytest.approx(0.5, abs=0.01)


def test_a_released_head_loads_with_its_own_sizes(tmp_path):
    path = tmp_path / "prediction_head.safetensors"
    released = PredictionHead(DIM, CLUSTERS, FINAL_DIM)
    save_file(released.state_dict(), path)
    head = PredictionHead.load_released(path)
    frames = torch.randn(4, DIM)
    assert torch.equal(head(frames), released(frames))


@pytest.mark.parametrize("content", [None, b"not safetensors", {"codebook": torch.zeros(3, 4)}])
def test_what_is_no_released_head_is_refused(tmp_path, content):
    path = tmp_path / "head.safetensors"
    if isinstance(content, dict):
        save_file(content, path)
    elif content:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"head\.safetensors: not a prediction head\. `ser import"):
        PredictionHead.load_released(path)
