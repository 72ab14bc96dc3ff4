import audmetric
import numpy as np
import pytest
import torch
from garbage import refused
from hypothesis import given
from hypothesis import strategies as st

from ser_personal.finetune.concordance import CCCLoss, MSELoss, ccc, ccc_loss
from ser_personal.scores import concordance

NAN = float("nan")
LOSSES = {"ccc": CCCLoss(), "mse": MSELoss()}
LABELS = st.lists(st.floats(1, 7), min_size=2, max_size=30)
ROWS = st.tuples(*[st.sampled_from([0.1, 1.0, 3.5, 7.0, NAN])] * 2)


def average(values, weights):
    return sum(weight * value for weight, value in zip(weights, values, strict=True)) / sum(weights)


def slow_ccc(x, y, weights):
    x_mean, y_mean = average(x, weights), average(y, weights)
    products = ((x - x_mean) * (y - y_mean), (x - x_mean) ** 2, (y - y_mean) ** 2)
    covariance, x_variance, y_variance = (average(product, weights) for product in products)
    return 2 * covariance / max(x_variance + y_variance + (x_mean - y_mean) ** 2, 1e-8)


def test_agrees_with_a_slow_loop_and_audmetric():
    rng = np.random.default_rng(0)
    predictions, labels = rng.normal(4, 1, (40, 3)), rng.normal(4, 1, (40, 3))
    ours = ccc(torch.from_numpy(predictions), torch.from_numpy(labels))
    assert ours.shape == (3,)
    for found, x, y in zip(ours, predictions.T, labels.T, strict=True):
        one_by_one = slow_ccc(x, y, np.ones(40)), audmetric.concordance_cc(y, x), ccc(x, y).item(), concordance(x, y)
        for expected in one_by_one:
            assert found.item() == pytest.approx(expected, abs=1e-12)
    assert ccc([1.0, 2.0], [1.0, 2.0]).item() == 1


@given(labels=LABELS, seed=st.integers(0, 1000), slope=st.floats(0.1, 3), shift=st.floats(-5, 5))
def test_symmetric_bounded_and_blind_to_a_common_affine_map(labels, seed, slope, shift):
    y = torch.tensor(labels, dtype=torch.float64)
    x = y + torch.randn(len(y), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    value = ccc(x, y).item()
    assert -1 - 1e-12 <= value <= 1 + 1e-12
    assert ccc(y, x).item() == pytest.approx(value, abs=1e-12)
    assert ccc(slope * x + shift, slope * y + shift).item() == pytest.approx(value, abs=1e-9)


def test_undefined_is_nan_and_constant_predictions_score_zero():
    constant, nothing, one = np.full(7, 0.1), np.zeros(0), np.array([3.0])
    for function in (ccc, concordance):
        assert np.isnan([float(function(x, x)) for x in (constant, nothing)]).all()
        assert function(constant, np.arange(7.0)) == function(one, one + 1) == 0
    assert ccc(torch.empty(0, 2), torch.empty(0, 2)).isnan().tolist() == [True, True]


def test_gradient_agrees_with_finite_differences():
    predictions = torch.tensor([[1.0, 2.0], [3.0, 5.0], [2.0, 1.0]], dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([[2.0, 3.0], [4.0, NAN], [4.0, 1.0]], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda p: ccc_loss(p, labels), predictions)


@pytest.mark.parametrize("shapes", [((4, 1), (4,)), ((4,), (5,)), ((4, 2, 1), (4, 2, 1)), ((), ())])
def test_shapes_that_would_broadcast_are_refused(shapes):
    for function in (ccc, ccc_loss):
        refused("don't match", function, torch.zeros(shapes[0]), torch.zeros(shapes[1]))


def slow(name, predictions, labels, weights):
    """Attribute by attribute and utterance by utterance."""
    losses = []
    for x, y in zip(predictions.T, labels.T, strict=True):
        rows = ~np.isnan(y) & (weights > 0)
        if rows.any():
            of_rows = x[rows], y[rows], weights[rows]
            losses.append(1 - slow_ccc(*of_rows) if name == "ccc" else average((x - y)[rows] ** 2, weights[rows]))
    return np.mean(losses) if losses else 0.0


def some(seed=0, rows=12, attributes=3):
    rng = np.random.default_rng(seed)
    predictions, labels = rng.normal(4, 1, (rows, attributes)), rng.uniform(1, 7, (rows, attributes))
    labels[rng.random(labels.shape) < 0.3] = np.nan
    return predictions, labels, rng.integers(0, 4, rows).astype(float)


@pytest.mark.parametrize("name", LOSSES)
def test_against_a_slow_loop(name):
    for seed in range(5):
        predictions, labels, weights = some(seed)
        loss = LOSSES[name](*map(torch.from_numpy, (predictions, labels, weights)))
        assert float(loss) == pytest.approx(slow(name, predictions, labels, weights), abs=1e-9)


@pytest.mark.parametrize("name", LOSSES)
@given(labels=st.lists(ROWS, max_size=4), same=st.booleans(), weight=st.sampled_from([None, 0.0, 1e-6, 3.0]))
def test_any_batch_has_a_loss_and_a_finite_gradient_where_ccc_is_not_defined_too(name, labels, same, weight):
    labels = torch.tensor(labels).reshape(-1, 2)
    # what is predicted where no label is isn't read, be it NaN
    predictions = (labels.clone() if same else torch.full_like(labels, 4.0)).requires_grad_()
    loss = LOSSES[name](predictions, labels, None if weight is None else torch.full((len(labels),), weight))
    loss.backward()
    of_each = np.full(len(labels), 1.0 if weight is None else weight)
    assert loss.item() == pytest.approx(slow(name, predictions.detach().numpy(), labels.numpy(), of_each), abs=1e-4)
    assert predictions.grad.isfinite().all()


@pytest.mark.parametrize("name", LOSSES)
def test_half_precision_is_computed_in_float32(name):
    predictions, labels, _ = (torch.from_numpy(array).float() for array in some(3))
    half = predictions.bfloat16()
    torch.testing.assert_close(LOSSES[name](half, labels), LOSSES[name](half.float(), labels))
