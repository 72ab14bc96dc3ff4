from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ser_personal.finetune.losses import CCCLoss, MSELoss

LOSSES = {"ccc": CCCLoss(), "mse": MSELoss()}


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
        cov = sum(weights[row] * (x[row] - mean[id(x)]) * (y[row] - mean[id(y)]) for row in rows) / total
        # var x + var y + (mean x - mean y)^2 = E (x - y)^2 + 2 cov
        ccc = 2 * cov / max(mse + 2 * cov, 1e-8)
        losses.append({"ccc": 1 - ccc, "mse": mse}[name])
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
