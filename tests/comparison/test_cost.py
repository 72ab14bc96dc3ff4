from __future__ import annotations

import json

import pytest
import torch
from tiny_models import emotion_data, finetuning, fit, newest_run, trainer
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.flop_counter import FlopCounterMode

from ser_personal.comparison.cost import CostRecorder, FlopCounter
from ser_personal.finetune.interpreters import TransformerInterpreter
from ser_personal.types import EncoderOutput

MODES = [torch.inference_mode, torch.no_grad, torch.enable_grad]


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


@pytest.mark.parametrize("mode", MODES)
def test_a_transformer_interpreter_is_hand_arithmetic_in_every_mode(mode):
    interpreter = TransformerInterpreter(dim=8, layers=2, heads=2, stride=1)
    interpreter.build(6, 3)
    frames, mask, tokens = torch.randn(3, 5, 6), torch.ones(3, 5, dtype=torch.bool), 6
    with mode(), FlopCounter() as counter:
        interpreter.eval()(EncoderOutput(frames, mask))
    projections = 2 * 3 * tokens * (3 * 8 * 8 + 8 * 8)
    feed_forward = 2 * 3 * tokens * 2 * (8 * 16)
    attention = 2 * (2 * 3 * tokens * tokens * 8)
    ends = 2 * 3 * 5 * 6 * 8 + 2 * 3 * 8 * 3
    assert counter.flops == 2 * (projections + feed_forward + attention) + ends
    assert torch.backends.mha.get_fastpath_enabled()


@pytest.mark.parametrize("mode", MODES)
def test_counts_what_torch_counts_where_gradients_are_kept(mode):
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


def seconds_of(data, *splits):
    return sum(data.utterances[index].seconds for split in splits for index in data.split_indices(split))


@pytest.fixture(scope="module")
def recorded(synthetic_corpus, tmp_path_factory):
    """A fit of two epochs with validation, its checkpoint of the first epoch, and its record."""
    folder = tmp_path_factory.mktemp("recorded")
    data, module = emotion_data(synthetic_corpus), finetuning()
    options = {"limit_val_batches": 1.0, "callbacks": [CostRecorder()]}
    fit(module, data, folder, max_epochs=1, **options).save_checkpoint(folder / "first.ckpt")
    fit(finetuning(), data, folder, max_epochs=2, num_sanity_val_steps=1, **options | {"callbacks": [CostRecorder()]})
    return folder, data, json.loads((newest_run(folder) / "fit_cost.json").read_text())


def test_audio_counts_every_time_that_it_goes_through(recorded):
    _, data, cost = recorded
    expected = 2 * seconds_of(data, "train", "validation")
    assert cost["speech_seconds"] == pytest.approx(expected, rel=1e-4)
    assert cost["command"] == "fit"
    assert 0 < cost["trained_parameters"] <= cost["parameters"]
    assert cost["seconds"] > 0


def test_counting_changes_no_weight(synthetic_corpus, tmp_path):
    with_count, without = finetuning(), finetuning()
    fit(with_count, emotion_data(synthetic_corpus), tmp_path, max_epochs=1, callbacks=[CostRecorder()])
    fit(without, emotion_data(synthetic_corpus), tmp_path, max_epochs=1)
    for one, other in zip(with_count.parameters(), without.parameters(), strict=True):
        assert one.equal(other)


def test_a_resumed_fit_records_the_whole(recorded, synthetic_corpus, tmp_path):
    folder, _, whole = recorded
    running = trainer(tmp_path, max_epochs=2, num_sanity_val_steps=0, callbacks=[CostRecorder()])
    running.fit(finetuning(), datamodule=emotion_data(synthetic_corpus), ckpt_path=folder / "first.ckpt")
    resumed = json.loads((newest_run(tmp_path) / "fit_cost.json").read_text())
    assert resumed["speech_seconds"] == pytest.approx(whole["speech_seconds"], rel=1e-4)
    assert resumed["flops"] == pytest.approx(whole["flops"], rel=0.01)


def test_a_test_does_not_count_its_checkpoint_s_fit(recorded, tmp_path):
    folder, data, _ = recorded
    running = trainer(tmp_path, callbacks=[CostRecorder()])
    running.test(finetuning(), datamodule=data, ckpt_path=folder / "first.ckpt", verbose=False)
    cost = json.loads((newest_run(tmp_path) / "test_cost.json").read_text())
    assert cost["speech_seconds"] == pytest.approx(seconds_of(data, "test1"), rel=1e-4)
    assert cost["flops"] > 0
    assert cost["trained_parameters"] is None
