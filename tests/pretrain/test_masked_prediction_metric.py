from __future__ import annotations

import pytest
import torch

from ser_personal.pretrain.masked_prediction import MaskedPredictionLoss, MaskedPredictionMetric


def batch(loss: float, wanted: list[int], predicted: list[int]) -> MaskedPredictionLoss:
    ids = torch.tensor(predicted, dtype=torch.long)
    correct = (ids == torch.tensor(wanted, dtype=torch.long)).sum()
    return MaskedPredictionLoss(torch.tensor(loss, requires_grad=True), torch.tensor(len(wanted)), correct, ids)


def test_batches_weigh_by_their_masked_frames():
    metric = MaskedPredictionMetric(num_clusters=8)
    metric.update(batch(6.0, [0, 1, 2], [0, 1, 1]), key=4)
    metric.update(batch(1.0, [5], [5]), key=0)
    loss, accuracy, usage = metric.compute()
    assert loss == pytest.approx(7 / 4)
    assert accuracy == pytest.approx(3 / 4)
    assert usage == pytest.approx(3 / 8)  # 0, 1 and 5 of eight
    assert not loss.requires_grad


def test_a_collapsed_model_uses_one_cluster():
    metric = MaskedPredictionMetric(num_clusters=4)
    for wanted in range(4):
        metric.update(batch(1.0, [wanted], [2]), key=wanted)
    assert metric.compute().codebook_usage == pytest.approx(1 / 4)
    assert metric.compute().accuracy == pytest.approx(1 / 4)


def test_reset_forgets_and_nothing_masked_is_finite():
    metric = MaskedPredictionMetric(num_clusters=4)
    metric.update(batch(3.0, [0, 0], [0, 0]), key=0)
    metric.reset()
    metric.update(batch(0.0, [], []), key=0)
    assert [float(score) for score in metric.compute()] == [0, 0, 0]


def test_a_batch_that_a_sampler_repeats_counts_once():
    once, twice = MaskedPredictionMetric(num_clusters=8), MaskedPredictionMetric(num_clusters=8)
    for metric, repeats in ((once, 1), (twice, 2)):
        metric.update(batch(1.0, [5], [5]), key=3)
        for _ in range(repeats):
            metric.update(batch(6.0, [0, 1, 2], [0, 1, 1]), key=7)
    assert list(map(float, once.compute())) == list(map(float, twice.compute()))
