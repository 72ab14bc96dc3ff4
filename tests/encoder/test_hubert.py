from __future__ import annotations

import json
import re
from contextlib import nullcontext
from functools import partialmethod
from pathlib import Path

import huggingface_hub.constants
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import papt
from tiny_networks import padded_noise, tiny_network
from torchaudio.models.wav2vec2.utils import import_huggingface_model
from transformers import AutoModel, BertConfig, masking_utils

from ser_personal.audio import normalize, num_frames
from ser_personal.encoder.hubert import HubertEncoder, TinyEncoder
from ser_personal.errors import UserError
from ser_personal.speakers.representation import SpeakerSet

LENGTHS = torch.tensor([8000, 5000, 6161])


def built(pretrained: str, **options: object) -> HubertEncoder:
    encoder = HubertEncoder(pretrained, **options).eval()
    encoder.build()
    return encoder


def as_pretrained(network: torch.nn.Module, waveforms: torch.Tensor) -> torch.Tensor:
    """Unpadded waveforms as that model's pre-training prepared them."""
    if network.config.feat_extract_norm == "group":
        return waveforms
    return normalize(waveforms, torch.full((len(waveforms),), waveforms.shape[1]))


@pytest.fixture
def unpadded() -> tuple[torch.Tensor, torch.Tensor]:
    lengths = torch.tensor([8000, 8000])
    return padded_noise(lengths), lengths


@pytest.fixture
def tiny() -> TinyEncoder:
    torch.manual_seed(0)
    encoder = TinyEncoder().eval()
    encoder.build()
    encoder.fit_front_end(lambda _: iter([np.random.default_rng(0).normal(size=8000).astype(np.float32)]))
    return encoder


@torch.no_grad()
def test_unpadded_frames_and_layers_are_those_of_transformers(any_folder, unpadded):
    encoder, network = built(any_folder), AutoModel.from_pretrained(any_folder).eval()
    wanted = network(as_pretrained(network, unpadded[0]), output_hidden_states=True)
    torch.testing.assert_close(encoder(*unpadded).frames, wanted.last_hidden_state, atol=0, rtol=0)
    for layer in (1, 2):
        hidden = encoder.hidden_states(*unpadded, layer)
        torch.testing.assert_close(hidden.frames, wanted.hidden_states[layer], atol=0, rtol=0)
        assert hidden.frame_mask.all()


@torch.no_grad()
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_unpadded_frames_and_layers_are_those_of_torchaudio(hubert_folder, unpadded):
    encoder, network = built(hubert_folder), AutoModel.from_pretrained(hubert_folder).eval()
    oracle = import_huggingface_model(network).eval()
    waveforms = as_pretrained(network, unpadded[0])
    torch.testing.assert_close(encoder(*unpadded).frames, oracle(waveforms)[0], atol=1e-5, rtol=1e-4)
    for layer, wanted in enumerate(oracle.extract_features(waveforms)[0], start=1):
        torch.testing.assert_close(encoder.hidden_states(*unpadded, layer).frames, wanted, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def assert_clips_are_the_same_alone_and_batched(encoder: HubertEncoder, lengths: torch.Tensor) -> None:
    waveforms = padded_noise(lengths)
    batched, layer = encoder(waveforms, lengths), encoder.hidden_states(waveforms, lengths, 1)
    assert batched.frame_mask.sum(1).tolist() == num_frames(lengths).tolist()
    for row, length in enumerate(lengths.tolist()):
        alone = waveforms[row : row + 1, :length], lengths[row : row + 1]
        real = batched.frame_mask[row]
        torch.testing.assert_close(batched.frames[row, real], encoder(*alone).frames[0], atol=1e-4, rtol=0)
        hidden = encoder.hidden_states(*alone, 1).frames[0]
        torch.testing.assert_close(layer.frames[row, real], hidden, atol=1e-5, rtol=1e-4)


def test_a_clip_has_the_same_frames_alone_and_in_any_batch(any_folder, tiny):
    assert_clips_are_the_same_alone_and_batched(built(any_folder), LENGTHS)
    assert_clips_are_the_same_alone_and_batched(tiny, torch.tensor([400, 719, 720, 5000, 9001]))


@pytest.mark.parametrize(("norm", "layers"), [("group", 12), ("layer", 24)])
def test_so_it_is_at_the_depth_of_base_and_large(norm, layers, tmp_path):
    tiny_network("hubert", norm, num_hidden_layers=layers, num_conv_pos_embeddings=128).save_pretrained(tmp_path)
    assert_clips_are_the_same_alone_and_batched(built(str(tmp_path)), torch.tensor([48_000, 16_000, 30_161, 47_999]))


@torch.no_grad()
def test_attention_has_a_mask_only_where_something_is_padded(hubert_folder, unpadded, monkeypatch):
    encoder, masks = built(hubert_folder), []
    forward = encoder.network.encoder.forward

    def spy(hidden, attention_mask):
        masks.append(attention_mask)
        return forward(hidden, attention_mask=attention_mask)

    monkeypatch.setattr(encoder.network.encoder, "forward", spy)
    encoder(*unpadded)
    assert masks == [None]
    frame_mask = encoder(padded_noise(LENGTHS), LENGTHS).frame_mask
    assert masks[1].tolist() == frame_mask.tolist()


@torch.no_grad()
@pytest.mark.parametrize("normalizes", [None, True, False])
def test_normalisation_follows_the_model_unless_told(hubert_folder, unpadded, normalizes):
    waveforms, lengths = unpadded
    encoder = built(hubert_folder, normalize=normalizes)
    network = AutoModel.from_pretrained(hubert_folder).eval()
    wanted = (network.config.feat_extract_norm == "layer") if normalizes is None else normalizes
    prepared = normalize(5 * waveforms + 1, lengths) if wanted else 5 * waveforms + 1
    torch.testing.assert_close(encoder(5 * waveforms + 1, lengths).frames, network(prepared).last_hidden_state)


@torch.no_grad()
def test_masked_frames_are_replaced_by_the_mask_embedding(hubert_folder, unpadded):
    encoder = built(hubert_folder)
    time_mask = torch.rand(2, num_frames(8000), generator=torch.Generator().manual_seed(0)) < 0.5
    inputs = []
    encoder.network.encoder.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    encoder(*unpadded)
    output = encoder(*unpadded, time_mask=time_mask)
    plain, masked = inputs
    assert output.time_mask is time_mask
    assert (masked[time_mask] == encoder.network.masked_spec_embed).all()
    torch.testing.assert_close(masked[~time_mask], plain[~time_mask], atol=0, rtol=0)


@torch.no_grad()
def test_feature_penalty_is_the_mean_square_over_real_frames(hubert_folder):
    encoder, waveforms = built(hubert_folder), padded_noise(LENGTHS)
    prepared = normalize(waveforms, LENGTHS) if encoder.normalizes else waveforms
    features = encoder.front_end(prepared, LENGTHS)
    squares = [features[row, : num_frames(length)].square() for row, length in enumerate(LENGTHS.tolist())]
    torch.testing.assert_close(encoder(waveforms, LENGTHS).feature_penalty, torch.cat(squares).mean())


def frozen_names(encoder: HubertEncoder) -> set[str]:
    return {name for name, weight in encoder.named_parameters() if not weight.requires_grad}


def test_freezing_stops_exactly_the_right_parameters(hubert_folder):
    assert not frozen_names(built(hubert_folder))
    convolutions = frozen_names(built(hubert_folder, freeze_cnn=True))
    assert convolutions == {name for name, _ in built(hubert_folder).named_parameters() if "conv_layers" in name}
    beneath = ["front_end.", "network.masked_spec_embed", "network.feature_projection."]
    beneath += ["network.encoder.pos_conv_embed.", "network.encoder.layers.0."]
    if "group" in hubert_folder:
        beneath.append("network.encoder.layer_norm.")
    layers = frozen_names(built(hubert_folder, freeze_layers=1))
    assert layers == {name for name, _ in built(hubert_folder).named_parameters() if name.startswith(tuple(beneath))}


def bytes_kept(encoder: HubertEncoder, lengths: torch.Tensor) -> int:
    """What a step keeps for its way back, the weights themselves left out."""
    weights = {weight.data_ptr() for weight in encoder.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.data_ptr() not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        encoder(padded_noise(lengths), lengths, time_mask=torch.ones(3, num_frames(8000), dtype=torch.bool))
    return sum(kept.values())


def test_frozen_layers_keep_nothing_for_the_way_back(hubert_folder):
    kept = [bytes_kept(built(hubert_folder, freeze_layers=layers).train(), LENGTHS) for layers in (0, 1, 2)]
    assert kept[2] < kept[1] < 0.6 * kept[0]
    assert kept[2] < 0.1 * kept[0]
    with pytest.raises(UserError, match=r"freeze_cnn false: the convolutions are trained below 1 frozen layers"):
        HubertEncoder(hubert_folder, freeze_layers=1, freeze_cnn=False)


def test_frozen_layers_give_the_same_frames_after_a_step(hubert_folder, unpadded):
    encoder = built(hubert_folder, freeze_layers=1)
    before, last = encoder.hidden_states(*unpadded, 1).frames, encoder(*unpadded).frames
    optimizer = torch.optim.SGD([weight for weight in encoder.parameters() if weight.requires_grad], 0.1)
    last[..., 0].square().sum().backward()
    optimizer.step()
    torch.testing.assert_close(encoder.hidden_states(*unpadded, 1).frames, before, atol=0, rtol=0)
    assert not torch.allclose(encoder(*unpadded).frames, last, atol=1e-4)


def test_parameters_are_listed_once(any_folder):
    encoder, network = built(any_folder), AutoModel.from_pretrained(any_folder)
    assert sum(weight.numel() for weight in encoder.parameters()) == network.num_parameters()
    assert sum(tensor.numel() for tensor in encoder.state_dict().values()) == sum(
        tensor.numel() for tensor in network.state_dict().values()
    )


@torch.no_grad()
def test_a_saved_config_rebuilds_the_architecture_without_the_folder(any_folder, tiny, unpadded):
    for encoder in (built(any_folder, normalize=True), tiny):
        json.loads(encoder.config)
        rebuilt = HubertEncoder("nowhere/at-all").eval()
        rebuilt.build(encoder.config)
        rebuilt.load_state_dict(encoder.state_dict())
        torch.testing.assert_close(rebuilt(*unpadded).frames, encoder(*unpadded).frames, atol=0, rtol=0)
        assert rebuilt.config == encoder.config


def test_a_network_trains_as_its_encoder_does(hubert_folder, unpadded):
    encoder = HubertEncoder(hubert_folder, dropout=0.5)
    encoder.build()
    assert all(module.training for module in encoder.modules())
    assert not torch.equal(encoder(*unpadded).frames, encoder(*unpadded).frames)
    steady = built(hubert_folder)
    assert not any(module.training for module in steady.modules())
    evaluated = steady(*unpadded).frames
    # nothing is random by default
    torch.testing.assert_close(steady.train()(*unpadded).frames, evaluated)


def test_gradient_checkpointing_recomputes_and_changes_no_gradient(hubert_folder, unpadded):
    gradients, calls = [], []
    for checkpointing in (False, True):
        encoder = built(hubert_folder, gradient_checkpointing=checkpointing).train()
        seen: list[None] = []
        encoder.network.encoder.layers[0].feed_forward.register_forward_pre_hook(
            lambda *_, seen=seen: seen.append(None)
        )
        encoder(*unpadded).frames[..., 0].square().sum().backward()
        calls.append(len(seen))
        gradients.append(encoder.network.encoder.layers[0].feed_forward.output_dense.weight.grad)
    assert calls == [1, 2]
    torch.testing.assert_close(gradients[1], gradients[0])


def test_half_precision_weights_are_brought_to_full_precision(hubert_folder, tmp_path, unpadded):
    AutoModel.from_pretrained(hubert_folder).half().save_pretrained(tmp_path)
    encoder = built(str(tmp_path))
    rebuilt = HubertEncoder("nowhere/at-all")
    rebuilt.build(encoder.config)
    assert {weight.dtype for weight in (*encoder.parameters(), *rebuilt.parameters())} == {torch.float32}
    assert encoder(*unpadded).frames.dtype == torch.float32


def test_only_log_mel_takes_statistics(hubert_folder, tiny):
    built(hubert_folder).fit_front_end(lambda _: pytest.fail("asked for audio"))
    limits = []
    tiny.fit_front_end(lambda limit: limits.append(limit) or iter([]))
    assert limits == [500]


def test_no_such_layer_and_no_hook_left_behind(hubert_folder, unpadded):
    encoder = built(hubert_folder)
    for layer in (-1, 0, 3):
        with pytest.raises(UserError, match=f"encoder of 2 layers: no layer {layer}"):
            encoder.hidden_states(*unpadded, layer)
    encoder.hidden_states(*unpadded, 1)
    with pytest.raises(RuntimeError):
        encoder.hidden_states(torch.zeros(1, 100), torch.tensor([100]), 1)
    assert not encoder.network.encoder.layers[0]._forward_hooks


def refusal(pretrained: str) -> str:
    with pytest.raises(UserError) as caught:
        HubertEncoder(pretrained).build()
    assert str(caught.value).startswith(f"encoder {pretrained}: ")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_can_not_be_loaded_is_one_line(hubert_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    for pretrained in ("nobody/nothing", tmp_path / "missing", tmp_path):
        assert "can't be loaded" in refusal(str(pretrained))
    BertConfig().save_pretrained(tmp_path)
    assert "is of type bert. Use one of hubert, wavlm, wav2vec2, unispeech-sat" in refusal(str(tmp_path))
    config = (Path(hubert_folder) / "config.json").read_text()
    (tmp_path / "config.json").write_text(config)
    weights = (Path(hubert_folder) / "model.safetensors").read_bytes()
    for length in (0, 100, len(weights) // 2):
        (tmp_path / "model.safetensors").write_bytes(weights[:length])
        assert "can't be loaded" in refusal(str(tmp_path))
    tensors = load_file(Path(hubert_folder) / "model.safetensors")
    tensors["masked_spec_embed"] = torch.zeros(7)
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert "can't be loaded" in refusal(str(tmp_path))
    (tmp_path / "config.json").write_text(config[:50])
    assert "can't be loaded" in refusal(str(tmp_path))


@pytest.mark.parametrize(
    ("weights", "config", "line"),
    [
        (lambda w: {f"model.{name}": w[name] for name in w}, {}, "the file calls it model.encoder.*: take model. off"),
        (
            lambda w: {name: w[name] for name in w if "layers.1." not in name},
            {},
            "lacks .*encoder.layers.1.*first",
        ),
        (dict, {"num_hidden_layers": 3}, r"lacks .* weights .*encoder.layers.2.*num_hidden_layers"),
        (dict, {"num_hidden_layers": 1}, r"has .* weights that config.json has no place for, encoder.layers.1"),
        (dict, {"num_hidden_layers": -1}, "num_hidden_layers of its config.json is -1"),
        (dict, {"conv_stride": [1] * 7}, "make a frame of 20 samples every 1"),
        (dict, {"hidden_act": "wiggle"}, "can't be loaded .*wiggle"),
        (dict, {"hidden_size": "wide"}, "can't be loaded .*expected int, got str"),
        (dict, {"num_attention_heads": 0}, "can't be loaded .*by zero"),
    ],
)
def test_weights_and_configs_that_do_not_fit(network_folders, tmp_path, weights, config, line):
    folder = network_folders["hubert", "layer"]
    settings = json.loads((folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(settings | config))
    save_file(weights(load_file(folder / "model.safetensors")), tmp_path / "model.safetensors", {"format": "pt"})
    assert re.search(line, refusal(str(tmp_path)))


def test_heads_are_left_out_and_said_and_a_mask_embedding_may_be_missing(network_folders, tmp_path, caplog):
    folder = network_folders["hubert", "layer"]
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    tensors = load_file(folder / "model.safetensors")
    del tensors["masked_spec_embed"]
    prefixed = {f"hubert.{name}": weight for name, weight in tensors.items()} | {"lm_head.weight": torch.zeros(2, 32)}
    save_file(prefixed, tmp_path / "model.safetensors", {"format": "pt"})
    layers = built(str(tmp_path)).network.encoder.state_dict()
    for name, weight in built(str(folder)).network.encoder.state_dict().items():
        assert torch.equal(layers[name], weight), name
    assert re.search(r"lm_head.weight *\| UNEXPECTED", caplog.text)


def test_nothing_is_read_before_build():
    encoder = HubertEncoder("nowhere/at-all")
    assert not list(encoder.parameters())
    with pytest.raises(RuntimeError, match="build"):
        encoder(torch.zeros(1, 400), torch.tensor([400]))


def test_more_layers_to_freeze_than_there_are(hubert_folder):
    built(hubert_folder, freeze_layers=2)
    with pytest.raises(UserError, match=r"freeze_layers: 3 is out of range\. Give a number from 0 to 2"):
        built(hubert_folder, freeze_layers=3)


@torch.no_grad()
def test_energy_reaches_the_transformer(tiny):
    inputs, length = [], torch.tensor([5000])
    tiny.network.encoder.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    quiet, loud = 0.1 * padded_noise(length), padded_noise(length)
    for waveforms in (quiet, loud):
        tiny(waveforms, length)
    # no norm in between: ten times the amplitude is log 100 more in every bin
    louder_by = torch.full((40,), 100.0).log() / tiny.front_end.std
    wanted = tiny.network.feature_projection.projection.weight @ louder_by
    torch.testing.assert_close(inputs[1] - inputs[0], wanted.expand_as(inputs[0]), atol=1e-4, rtol=1e-3)


def test_nothing_is_learnt_from_padding(tiny):
    lengths = torch.tensor([9001, 5000])
    noise = torch.randn(2, 9001)
    gradients = []
    for padding in (0.0, 1.0):
        tiny.zero_grad()
        waveforms = torch.where(torch.arange(9001) < lengths[:, None], noise, padding * noise)
        output = tiny(waveforms, lengths)
        output.frames[output.frame_mask].square()[:, 0].sum().backward()
        gradients.append(tiny.network.feature_projection.projection.weight.grad.clone())
    torch.testing.assert_close(gradients[1], gradients[0], atol=1e-4, rtol=1e-4)
    assert gradients[0].abs().max() > 0


def test_every_parameter_that_a_masked_batch_needs_learns(tiny, hubert_folder):
    for encoder in (tiny, built(hubert_folder).train()):
        time_mask = torch.arange(num_frames(8000)).expand(3, -1) % 2 == 0
        encoder(padded_noise(LENGTHS), LENGTHS, time_mask=time_mask).frames[..., 0].square().sum().backward()
        assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in encoder.parameters())


def test_shape_follows_the_arguments(tiny):
    assert 0.19e6 < sum(weight.numel() for weight in tiny.parameters()) < 0.23e6
    encoder = TinyEncoder(dim=16, layers=1, heads=2, feed_forward_dim=8, num_mels=20)
    encoder.build()
    assert encoder(torch.randn(1, 720), torch.tensor([720])).frames.shape == (1, 2, 16)
    assert len(encoder.network.encoder.layers) == 1
    with pytest.raises(UserError, match="heads: 3 don't divide dim"):
        TinyEncoder(heads=3)


@pytest.fixture
def quickly_compiled(monkeypatch):
    """Graphs are made and run, but not turned into C++."""
    monkeypatch.setattr(torch.nn.Module, "compile", partialmethod(torch.nn.Module.compile, backend="eager"))


def gradients(encoder, lengths):
    encoder.zero_grad()
    waveforms = padded_noise(lengths)
    output = encoder(waveforms, lengths)
    output.frames[output.frame_mask].square().sum().backward()
    return {name: weight.grad for name, weight in encoder.named_parameters() if weight.grad is not None}


def test_compiled_and_checkpointed_is_the_same_model(hubert_folder, quickly_compiled):
    plain = built(hubert_folder).train()
    changed = built(hubert_folder, gradient_checkpointing=True, compiled=True).train()
    assert plain.state_dict().keys() == changed.state_dict().keys()
    for lengths in (LENGTHS, torch.tensor([6000, 6000])):
        expected, reached = gradients(plain, lengths), gradients(changed, lengths)
        torch.testing.assert_close(reached, expected, rtol=1e-4, atol=1e-5)


def without_values(lengths):
    """A batch of tensors without values, of which nothing can be read."""
    samples = max(lengths)
    return {
        "waveforms": torch.empty(len(lengths), samples, device="meta"),
        "num_samples": torch.tensor(lengths),
        "speaker_ids": ["a", None],
        "indices": torch.arange(len(lengths)),
        "pseudo_labels": torch.empty(len(lengths), num_frames(samples), dtype=torch.int64, device="meta"),
    }


@pytest.mark.parametrize("lengths", [(8_000, 8_000), (8_000, 6_000)])
def test_a_step_of_papt_does_not_wait_for_the_device(hubert_folder, lengths, monkeypatch):
    # which doesn't know tensors without values
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    # transformers itself asks once whether a mask that it is given masks anything
    monkeypatch.setattr(masking_utils, "_ignore_bidirectional_mask_sdpa", lambda *_: False)
    module = papt(encoder=HubertEncoder(hubert_folder, gradient_scale=0.1))
    module.personalized.build(SpeakerSet(["a", "b"]))
    module._build_head(7, 8)
    module.to("meta").train()
    prediction, output = module._predict(without_values(lengths), mask_seed=0)
    (prediction.loss / prediction.masked + output.feature_penalty).backward()
    assert all(weight.grad is not None for weight in module.parameters() if weight.requires_grad)
