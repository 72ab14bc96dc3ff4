from __future__ import annotations

import numpy as np
import pytest
import torch
from command_line import finetune_arguments, on_two_ranks, stage, trainer_flags
from hypothesis import given
from hypothesis import strategies as st
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from ser_personal.finetune.concordance import ccc_loss
from ser_personal.finetune.interpreters import MLPInterpreter
from ser_personal.finetune.losses import CCCLoss, CCCPlusMSE, MAELoss, MSELoss, gather_rows
from ser_personal.types import EncoderOutput

LOSSES = {"ccc": CCCLoss(), "mse": MSELoss(), "mae": MAELoss(), "ccc + mse": CCCPlusMSE(0.3)}


def slow(name, predictions, labels, weights):
    """Attribute by attribute and utterance by utterance."""
    losses = []
    for attribute in range(labels.shape[1]):
        rows = [row for row in range(len(labels)) if not np.isnan(labels[row, attribute]) and weights[row] > 0]
        if not rows:
            continue
        total = sum(weights[row] for row in rows)
        x, y = predictions[:, attribute], labels[:, attribute]
        mean = {id(v): sum(weights[row] * v[row] for row in rows) / total for v in (x, y)}
        mse = sum(weights[row] * (x[row] - y[row]) ** 2 for row in rows) / total
        mae = sum(weights[row] * abs(x[row] - y[row]) for row in rows) / total
        cov = sum(weights[row] * (x[row] - mean[id(x)]) * (y[row] - mean[id(y)]) for row in rows) / total
        # var x + var y + (mean x - mean y)^2 = E (x - y)^2 + 2 cov
        ccc = 2 * cov / max(mse + 2 * cov, 1e-8)
        losses.append({"ccc": 1 - ccc, "mse": mse, "mae": mae, "ccc + mse": 1 - ccc + 0.3 * mse}[name])
    return np.mean(losses) if losses else 0.0


def some(seed=0, rows=12, attributes=3):
    rng = np.random.default_rng(seed)
    predictions, labels = rng.normal(4, 1, (rows, attributes)), rng.uniform(1, 7, (rows, attributes))
    labels[rng.random(labels.shape) < 0.3] = np.nan
    return predictions, labels, rng.integers(0, 4, rows).astype(float)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", LOSSES)
def test_against_a_slow_loop(name, weighted):
    for seed in range(5):
        predictions, labels, weights = some(seed)
        if seed == 4:
            labels[:, 1] = np.nan
        given_weights = torch.from_numpy(weights) if weighted else None
        loss = LOSSES[name](torch.from_numpy(predictions), torch.from_numpy(labels), given_weights)
        expected = slow(name, predictions, labels, weights if weighted else np.ones(len(weights)))
        assert float(loss) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("name", LOSSES)
def test_a_weight_is_as_good_as_that_many_copies_and_a_common_factor_is_nothing(name):
    predictions, labels, weights = (torch.from_numpy(array) for array in some(7))
    rows = torch.repeat_interleave(torch.arange(len(weights)), weights.long())
    loss = LOSSES[name]
    copies = loss(predictions[rows], labels[rows])
    torch.testing.assert_close(loss(predictions, labels, weights), copies)
    torch.testing.assert_close(loss(predictions, labels, 5 * weights), copies)
    torch.testing.assert_close(loss(predictions, labels, torch.full_like(weights, 0.2)), loss(predictions, labels))


@pytest.mark.parametrize("name", LOSSES)
@given(
    labels=st.lists(st.lists(st.sampled_from([1.0, 3.5, 7.0, float("nan")]), min_size=2, max_size=2), max_size=4),
    same=st.booleans(),
    weight=st.sampled_from([None, 0.0, 1e-6, 3.0]),
)
def test_any_batch_has_a_finite_loss_and_gradient(name, labels, same, weight):
    labels = torch.tensor(labels).reshape(-1, 2)
    predictions = (labels.nan_to_num(4.0) if same else torch.full_like(labels, 4.0)).requires_grad_()
    weights = None if weight is None else torch.full((len(labels),), weight)
    loss = LOSSES[name](predictions, labels, weights)
    loss.backward()
    assert loss.isfinite()
    assert predictions.grad.isfinite().all()
    if labels.isnan().all() or weight == 0:
        assert loss == 0


@pytest.mark.parametrize("name", LOSSES)
def test_half_precision_is_computed_in_float32(name):
    predictions, labels, _ = (torch.from_numpy(array).float() for array in some(3))
    half = predictions.bfloat16()
    torch.testing.assert_close(LOSSES[name](half, labels), LOSSES[name](half.float(), labels))


def test_a_loss_is_chosen_by_its_short_name(monkeypatch, synthetic_corpus, tmp_path):
    monkeypatch.setattr("ser_personal.stages.stage_cli.StageCLI._run_subcommand", lambda *_: None)
    arguments = ["fit", *finetune_arguments(synthetic_corpus), *trainer_flags(tmp_path)]
    assert isinstance(stage(*arguments, "--model.loss", "MSELoss").model.loss, MSELoss)
    chosen = stage(*arguments, "--model.loss", "CCCPlusMSE", "--model.loss.weight", "0.2").model.loss
    assert (type(chosen), chosen.weight) == (CCCPlusMSE, 0.2)


# rows of each of the two processes
DEALT = [(5, 3), (1, 7), (8, 0)]


def network():
    """The paper's interpreter over one frame an utterance."""
    torch.manual_seed(0)
    interpreter = MLPInterpreter((6, 5), dropout=0.0)
    interpreter.build(4, 2)
    return interpreter.double()


def rows_and_labels():
    torch.manual_seed(1)
    labels = torch.randn(8, 2, dtype=torch.float64)
    labels[2, 0] = labels[6:, 1] = torch.nan
    return torch.randn(8, 4, dtype=torch.float64), labels


def predict(model, features):
    return model(EncoderOutput(features[:, None], torch.ones(len(features), 1, dtype=torch.bool)))


def gradients_of(rank, folder):
    """One process of two: DDP's gradients of the loss over everybody's rows, and the statistics that it leaves."""
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    results = []
    for dealt in DEALT:
        model = DistributedDataParallel(network())
        features, labels = (rows.split(dealt)[rank] for rows in rows_and_labels())
        loss = ccc_loss(gather_rows(predict(model, features)), gather_rows(labels))
        loss.backward()
        results.append([loss.detach(), *(weight.grad for weight in model.parameters()), *model.buffers()])
    torch.save(results, f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


def test_two_processes_have_the_loss_the_gradients_and_the_statistics_of_one(tmp_path):
    model = network()
    features, labels = rows_and_labels()
    loss = ccc_loss(predict(model, features), labels)
    loss.backward()
    expected = [loss.detach(), *(weight.grad for weight in model.parameters()), *model.buffers()]
    on_two_ranks(gradients_of, str(tmp_path))
    for rank in range(2):
        for dealt in torch.load(tmp_path / f"{rank}.pt", weights_only=True):
            for mine, one in zip(dealt, expected, strict=True):
                torch.testing.assert_close(mine, one, rtol=1e-9, atol=1e-11)


def test_the_mean_of_the_devices_losses_is_another():
    features, labels = rows_and_labels()
    predictions = predict(network(), features).detach()
    halves = [ccc_loss(predictions[rows], labels[rows]) for rows in (slice(4), slice(4, 8))]
    assert float(sum(halves)) / 2 != pytest.approx(float(ccc_loss(predictions, labels)), abs=1e-3)
