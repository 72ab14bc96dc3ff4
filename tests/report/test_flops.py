from __future__ import annotations

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.flop_counter import FlopCounterMode

from ser_personal.finetune.interpreters import TransformerInterpreter
from ser_personal.report.cost import FlopCounter
from ser_personal.types import EncoderOutput


def test_a_linear_layer_is_hand_arithmetic():
    layer, inputs = torch.nn.Linear(5, 7), torch.randn(3, 5)
    with FlopCounter() as forward:
        loss = layer(inputs).sum()
    assert forward.flops == 2 * 3 * 5 * 7
    with FlopCounter() as backward:
        loss.backward()
    # the inputs need no gradient
    assert backward.flops == 2 * 3 * 5 * 7


def test_attention_is_two_products_of_queries_keys_and_values():
    query, key = torch.randn(2, 3, 5, 8, requires_grad=True), torch.randn(2, 3, 11, 8, requires_grad=True)
    with FlopCounter() as counter:
        out = scaled_dot_product_attention(query, key, key)
    product = 2 * 2 * 3 * 5 * 11 * 8
    assert counter.flops == 2 * product
    with FlopCounter() as counter:
        out.sum().backward()
    # both once more for each of their sides, and the first one recomputed
    assert counter.flops == 5 * product


MODES = [torch.inference_mode, torch.no_grad, torch.enable_grad]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("pooling", "tokens", "scores"), [("learnt", 6, 0), ("attentive", 5, 2 * 3 * 5 * 8)])
def test_a_transformer_interpreter_is_hand_arithmetic_however_torch_runs_it(mode, pooling, tokens, scores):
    interpreter = TransformerInterpreter(dim=8, layers=2, heads=2, pooling=pooling, stride=1)
    interpreter.build(6, 3)
    frames, mask = torch.randn(3, 5, 6), torch.ones(3, 5, dtype=torch.bool)
    with mode(), FlopCounter() as counter:
        interpreter.eval()(EncoderOutput(frames, mask))
    projections = 2 * 3 * tokens * (3 * 8 * 8 + 8 * 8)
    feed_forward = 2 * 3 * tokens * 2 * (8 * 16)
    attention = 2 * (2 * 3 * tokens * tokens * 8)
    ends = 2 * 3 * 5 * 6 * 8 + 2 * 3 * 8 * 3
    assert counter.flops == 2 * (projections + feed_forward + attention) + ends + scores


@pytest.mark.parametrize("mode", MODES)
def test_self_attention_is_hand_arithmetic_however_torch_runs_it(mode):
    attention, tokens = torch.nn.MultiheadAttention(8, 2, batch_first=True).eval(), torch.randn(3, 5, 8)
    with mode(), FlopCounter() as counter:
        attention(tokens, tokens, tokens, need_weights=False)
    assert counter.flops == 2 * 3 * 5 * (3 * 8 * 8 + 8 * 8) + 4 * 3 * 5 * 5 * 8


@pytest.mark.parametrize("mode", MODES)
def test_counts_what_torch_s_counter_counts(mode):
    convolution = torch.nn.utils.parametrizations.weight_norm(torch.nn.Conv1d(4, 6, 3, groups=2))
    network = torch.nn.Sequential(convolution, torch.nn.GELU(), torch.nn.Flatten(), torch.nn.Linear(6 * 8, 2))
    waveform = torch.randn(2, 4, 10)
    with FlopCounterMode(display=False) as reference:
        network(waveform)
    with mode(), FlopCounter() as counter:
        out = network(waveform)
    assert counter.flops == reference.get_total_flops()
    with mode():
        torch.testing.assert_close(network(waveform), out)
