from __future__ import annotations

import pytest
import torch
from command_line import on_two_ranks
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from ser_personal.finetune.concordance import ccc_loss
from ser_personal.finetune.losses import gather_rows

# rows of each of the two processes
DEALT = [(5, 3), (1, 7), (8, 0)]


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2)).double()


def batch():
    torch.manual_seed(1)
    labels = torch.randn(8, 2, dtype=torch.float64)
    labels[2, 0] = labels[6:, 1] = torch.nan
    return torch.randn(8, 4, dtype=torch.float64), labels


def gradients_of(rank, folder):
    """One process of two: DDP's gradients of the loss over everybody's rows."""
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    results = []
    for dealt in DEALT:
        model = DistributedDataParallel(network())
        features, labels = (rows.split(dealt)[rank] for rows in batch())
        loss = ccc_loss(gather_rows(model(features)), gather_rows(labels))
        loss.backward()
        results.append([loss.detach(), *(weight.grad for weight in model.parameters())])
    torch.save(results, f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


def test_two_processes_have_the_loss_and_the_gradients_of_one(tmp_path):
    model = network()
    features, labels = batch()
    loss = ccc_loss(model(features), labels)
    loss.backward()
    expected = [loss.detach(), *(weight.grad for weight in model.parameters())]
    on_two_ranks(gradients_of, str(tmp_path))
    for rank in range(2):
        for dealt in torch.load(tmp_path / f"{rank}.pt", weights_only=True):
            for mine, one in zip(dealt, expected, strict=True):
                torch.testing.assert_close(mine, one, rtol=1e-10, atol=1e-12)


def test_one_process_keeps_its_rows():
    rows = torch.zeros(3, 2, requires_grad=True)
    assert gather_rows(rows) is rows


def test_the_mean_of_the_devices_losses_is_another():
    features, labels = batch()
    predictions = network()(features).detach()
    halves = [ccc_loss(predictions[rows], labels[rows]) for rows in (slice(4), slice(4, 8))]
    assert float(sum(halves)) / 2 != pytest.approx(float(ccc_loss(predictions, labels)), abs=1e-3)
