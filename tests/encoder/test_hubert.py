import json
import os
import re
import shutil
from contextlib import nullcontext
from functools import partial

import pytest
import torch
from garbage import refused
from safetensors.torch import load_file, save_file
from tiny_models import built, fitted, learning, padded_noise, papt, speakers_alone, tiny_network
from transformers import AutoModel, masking_utils

from ser_personal.audio import normalize, num_frames
from ser_personal.encoder.hubert import ConvFrontEnd, HubertEncoder, TinyEncoder

LENGTHS = torch.tensor([8000, 5000, 6161])
EQUAL = torch.tensor([8000, 8000])
hubert = partial(built, HubertEncoder)
MISFITS = [
    (lambda w: {f"model.{name}": w[name] for name in w}, {}, "lacks .* calls it model.encoder.*: take model. off"),
    (lambda w: {name: w[name] for name in w if "layers.1." not in name}, {}, "lacks .*layers.1.*num_hidden"),
    (lambda w: w | {"masked_spec_embed": torch.zeros(7)}, {}, "can't be loaded"),
    (dict, {"num_hidden_layers": 1}, "has weights that config.json doesn't name, .*layers.1.*num_hidden_layers"),
    (dict, {"num_hidden_layers": -1}, "has weights that config.json doesn't name, .*layers.0.*num_hidden_layers"),
    (dict, {"conv_stride": [1] * 7}, "make a frame of 20 samples every 1"),
    (dict, {"hidden_act": "wiggle"}, "can't be loaded .*wiggle"),
    (dict, {"hidden_size": "wide"}, "can't be loaded .*expected int, got str"),
]


@torch.no_grad()
@pytest.mark.parametrize("normalizes", [None, True, False])
def test_frames_layers_and_weights_are_those_of_transformers(any_folder, normalizes):
    encoder = hubert(any_folder, normalize=normalizes)
    network = AutoModel.from_pretrained(any_folder).eval()
    waveforms = 5 * padded_noise(EQUAL) + 1
    # None: as base and large models are pre-trained
    told = network.config.feat_extract_norm == "layer" if normalizes is None else normalizes
    wanted = network(normalize(waveforms, EQUAL) if told else waveforms, output_hidden_states=True)
    torch.testing.assert_close(encoder(waveforms, EQUAL).frames, wanted.last_hidden_state, atol=0, rtol=0)
    for layer in (1, 2):
        hidden = encoder.hidden_states(waveforms, EQUAL, layer)
        torch.testing.assert_close(hidden.frames, wanted.hidden_states[layer], atol=0, rtol=0)
    assert sum(weight.numel() for weight in encoder.state_dict().values()) == network.num_parameters()
    weighted = hubert(any_folder, normalize=normalizes, weighted_layers=True)
    weighted.layer_weights.copy_(torch.tensor([1.0, -1.0, 0.5]))
    shares = weighted.layer_weights.softmax(0).tolist()
    states = [*wanted.hidden_states[:-1], wanted.last_hidden_state]
    summed = sum(share * state for share, state in zip(shares, states, strict=True))
    torch.testing.assert_close(weighted(waveforms, EQUAL).frames, summed, atol=1e-6, rtol=1e-5)


@torch.no_grad()
def test_a_clip_has_the_same_frames_alone_and_in_any_batch_whatever_pads_it(any_folder):
    tiny = fitted(TinyEncoder(), padded_noise(LENGTHS))
    for encoder, samples in ((hubert(any_folder), [401, 8000, 5000, 6161]), (tiny, [400, 719, 720, 5000, 9001])):
        lengths = torch.tensor(samples)
        waveforms = padded_noise(lengths)
        dirty = torch.where(torch.arange(int(lengths.max())) < lengths[:, None], waveforms, 5.0)
        batched, layer = encoder(dirty, lengths), encoder.hidden_states(dirty, lengths, 1)
        assert batched.frame_mask.sum(1).tolist() == num_frames(lengths).tolist()
        for row, length in enumerate(samples):
            alone = waveforms[row : row + 1, :length], lengths[row : row + 1]
            real = batched.frame_mask[row]
            torch.testing.assert_close(batched.frames[row, real], encoder(*alone).frames[0], atol=1e-4, rtol=0)
            hidden = encoder.hidden_states(*alone, 1).frames[0]
            torch.testing.assert_close(layer.frames[row, real], hidden, atol=1e-5, rtol=1e-4)


def test_freezing_stops_exactly_the_right_parameters(hubert_folder):
    plain = hubert(hubert_folder)
    names = {name for name, _ in plain.named_parameters()}
    assert learning(plain) == names
    assert learning(hubert(hubert_folder, freeze_cnn=True)) == names - {name for name in names if "conv_layers" in name}
    beneath = ["front_end.", "network.masked_spec_embed", "network.feature_projection."]
    beneath += ["network.encoder.pos_conv_embed.", "network.encoder.layers.0."]
    if "group" in hubert_folder:
        beneath.append("network.encoder.layer_norm.")
    above = {name for name in names if not name.startswith(tuple(beneath))}
    assert learning(hubert(hubert_folder, freeze_layers=1)) == above
    refused("freeze_layers: 3 is out of range", hubert, hubert_folder, freeze_layers=3)


def test_frozen_layers_keep_nothing_for_the_way_back(hubert_folder):
    for frozen, learns in ((0, [True, True]), (1, [False, True]), (2, [False, False])):
        encoder, keeps = hubert(hubert_folder, freeze_layers=frozen).train(), []
        for layer in encoder.layers:
            layer.register_forward_hook(lambda _, __, output, keeps=keeps: keeps.append(output.requires_grad))
        encoder(padded_noise(LENGTHS), LENGTHS, time_mask=torch.ones(3, num_frames(8000), dtype=torch.bool))
        assert keeps == learns


def test_dropout_is_of_training_alone_and_nothing_else_is_random(hubert_folder):
    waveforms = padded_noise(EQUAL)
    for dropout in (0.0, 0.5):
        encoder = hubert(hubert_folder, dropout=dropout)
        assert not any(module.training for module in encoder.modules())
        evaluated = encoder(waveforms, EQUAL).frames
        assert torch.allclose(encoder.train()(waveforms, EQUAL).frames, evaluated, atol=1e-5) is not bool(dropout)


def test_no_such_layer_and_no_hook_left_behind(hubert_folder):
    encoder = hubert(hubert_folder)
    refused("encoder of 2 layers: no layer 3", encoder.hidden_states, padded_noise(EQUAL), EQUAL, 3)
    with pytest.raises(RuntimeError):
        encoder.hidden_states(torch.zeros(1, 100), torch.tensor([100]), 1)
    assert len(encoder.layers) == 2
    assert not encoder.layers[0]._forward_hooks


def test_an_empty_folder_and_half_the_weights_are_one_line(network_folders, tmp_path):
    refused("can't be loaded", HubertEncoder(str(tmp_path)).build)
    shutil.copytree(network_folders["hubert", "layer"], tmp_path, dirs_exist_ok=True)
    os.truncate(tmp_path / "model.safetensors", 10_000)
    refused("can't be loaded", HubertEncoder(str(tmp_path)).build)


@pytest.mark.parametrize(("weights", "config", "line"), MISFITS)
def test_weights_and_configs_that_do_not_fit(network_folders, tmp_path, weights, config, line):
    folder = network_folders["hubert", "layer"]
    settings = json.loads((folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(settings | config))
    save_file(weights(load_file(folder / "model.safetensors")), tmp_path / "model.safetensors", {"format": "pt"})
    refused(f"^encoder {tmp_path}: .*{line}", HubertEncoder(str(tmp_path)).build)


def test_half_precision_behind_a_prefix_beside_a_head_without_a_mask_embedding(network_folders, tmp_path, caplog):
    folder = network_folders["hubert", "layer"]
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    tensors = load_file(folder / "model.safetensors")
    del tensors["masked_spec_embed"]
    prefixed = {f"hubert.{name}": weight.half() for name, weight in tensors.items()}
    prefixed["lm_head.weight"] = torch.zeros(2, 32)
    save_file(prefixed, tmp_path / "model.safetensors", {"format": "pt"})
    layers = hubert(str(tmp_path)).network.encoder.state_dict()
    for name, weight in hubert(str(folder)).network.encoder.state_dict().items():
        assert layers[name].dtype == torch.float32
        assert torch.equal(layers[name], weight.half()), name
    assert re.search(r"lm_head.weight *\| UNEXPECTED", caplog.text)


def test_gradient_scale_scales_gradients_and_nothing_else():
    gradients, frames = [], []
    for scale in (1.0, 0.1):
        front_end = ConvFrontEnd(tiny_network("hubert", "group").feature_extractor.conv_layers, scale)
        output = front_end(padded_noise(LENGTHS), LENGTHS)
        output.square().sum().backward()
        frames.append(output.detach())
        gradients.append(torch.cat([weight.grad.flatten() for weight in front_end.parameters()]))
    torch.testing.assert_close(frames[1], frames[0])
    torch.testing.assert_close(gradients[1], 0.1 * gradients[0], atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("lengths", [(8_000, 8_000), (8_000, 6_000)])
def test_a_step_of_papt_does_not_wait_for_the_device(hubert_folder, lengths, monkeypatch):
    # which doesn't know tensors without values
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    # transformers itself asks once whether a mask that it is given masks anything
    monkeypatch.setattr(masking_utils, "_ignore_bidirectional_mask_sdpa", lambda *_: False)
    module = papt(encoder=HubertEncoder(hubert_folder, gradient_scale=0.1))
    module.personalized.build(speakers_alone("a", "b"))
    module._build_head(7, 8)
    module.to("meta").train()
    audio = {"waveforms": torch.empty(2, 8_000, device="meta"), "num_samples": torch.tensor(lengths)}
    labels = torch.empty(2, num_frames(8_000), dtype=torch.int64, device="meta")
    without_values = audio | {"speaker_ids": ["a", None], "indices": torch.arange(2), "pseudo_labels": labels}
    prediction, output = module._predict(without_values, mask_seed=0)
    (prediction.loss / prediction.masked + output.feature_penalty).backward()
    assert all(weight.grad is not None for weight in module.parameters() if weight.requires_grad)
