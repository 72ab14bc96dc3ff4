import shutil
import sys

import pytest
import torch
from garbage import refused
from tiny_models import built, emotion_data, finetuning, fit, learning, padded_noise, papt, pretrain_data, tiny_network

from ser_personal.encoder.hubert import HubertEncoder
from ser_personal.encoder.hugging_face import LoRA

LENGTHS = torch.tensor([8000, 5000, 6161])
ADAPTERS = LoRA(rank=2, alpha=4.0)


def adapted(folder: str, lora: LoRA | None = None, **options: object) -> HubertEncoder:
    encoder = built(HubertEncoder, folder, lora, **options)
    for name, weight in encoder.named_parameters():
        # a new adapter's second half is zero, and layers begin alike
        if "lora_" in name or name == "layer_weights":
            torch.nn.init.normal_(weight, std=0.2)
    return encoder


def test_every_weight_of_a_weighted_sum_learns_and_checkpointing_recomputes_and_changes_no_gradient(hubert_folder):
    gradients, calls = [], []
    for checkpointing in (False, True):
        encoder = adapted(hubert_folder, weighted_layers=True, gradient_checkpointing=checkpointing).train()
        encoder.freeze_mask_embedding()
        seen: list[None] = []
        encoder.layers[0].feed_forward.register_forward_pre_hook(lambda *_, seen=seen: seen.append(None))
        encoder(padded_noise(LENGTHS), LENGTHS).frames[..., 0].square().sum().backward()
        calls.append(len(seen))
        gradients.append({name: weight.grad for name, weight in encoder.named_parameters() if weight.requires_grad})
    assert calls == [1, 2]
    assert all(gradient is not None for gradient in gradients[0].values())
    assert gradients[0]["layer_weights"].abs().min() > 0
    torch.testing.assert_close(gradients[1], gradients[0])


def test_masked_prediction_of_weighted_layers_and_lora_without_peft_are_refused(hubert_folder, monkeypatch):
    refused("layers true: masked prediction reads the last layer", papt, encoder=HubertEncoder(weighted_layers=True))
    monkeypatch.setitem(sys.modules, "peft", None)
    refused(r"LoRA: needs the package peft\. `pip install peft`", adapted, hubert_folder, ADAPTERS)


@pytest.fixture
def peft():
    return pytest.importorskip("peft", reason="the extra lora isn't installed")


@torch.no_grad()
def test_adapters_add_a_product_of_low_rank_and_can_be_merged(any_folder, peft):
    waveforms, plain = padded_noise(LENGTHS), adapted(any_folder)
    before = plain(waveforms, LENGTHS).frames
    encoder = adapted(any_folder, ADAPTERS)
    changed = encoder(waveforms, LENGTHS).frames
    assert not torch.allclose(changed, before, atol=1e-2)
    weights = encoder.state_dict()
    for name, weight in plain.named_parameters():
        stem = name.removesuffix(".weight")
        if f"{stem}.lora_A.default.weight" in weights:
            weight.add_(2 * weights[f"{stem}.lora_B.default.weight"] @ weights[f"{stem}.lora_A.default.weight"])
    torch.testing.assert_close(plain(waveforms, LENGTHS).frames, changed, atol=1e-5, rtol=1e-4)
    encoder.merge_adapters()
    assert encoder.state_dict().keys() == plain.state_dict().keys()
    assert encoder.config == plain.config
    torch.testing.assert_close(encoder(waveforms, LENGTHS).frames, changed, atol=1e-5, rtol=1e-4)


def test_adapters_alone_learn_above_frozen_layers(hubert_folder, peft):
    names = learning(adapted(hubert_folder, ADAPTERS, freeze_layers=1, weighted_layers=True))
    assert "layer_weights" in names
    assert len(names) == 5
    assert all("layers.1." in name for name in names if "lora_" in name)


def test_a_checkpoint_of_adapters_alone_needs_its_encoder(network_folders, synthetic_corpus, tmp_path, peft):
    folder, lora, data = tmp_path / "base", LoRA(rank=2, adapters_alone=True), emotion_data(synthetic_corpus)
    shutil.copytree(network_folders["hubert", "layer"], folder)
    module = finetuning(encoder=HubertEncoder(str(folder), normalize=False), lora=lora)
    fit(module, data, tmp_path, max_steps=1).save_checkpoint(tmp_path / "finetune.ckpt")
    saved = torch.load(tmp_path / "finetune.ckpt", weights_only=True)["state_dict"]
    assert not any("conv_layers" in name for name in saved)
    initial = {"lora": lora, "initial_checkpoint": str(tmp_path / "finetune.ckpt")}
    again, anew = (finetuning(encoder=HubertEncoder("nowhere"), **initial) for _ in range(2))
    again.build(data)
    torch.testing.assert_close(again.state_dict(), module.state_dict(), atol=0, rtol=0)
    assert again.personalized.encoder.config == module.personalized.encoder.config
    other = tiny_network("hubert", "layer")
    other.encoder.layer_norm.bias.data += 1
    other.save_pretrained(folder)
    refused(f"encoder {folder}: has other weights now", anew.build, data)
    refused("no hub name or folder .*adapters_alone false", finetuning(lora=lora).build, data)


def test_adapters_come_back_kept_or_merged(network_folders, synthetic_corpus, synthetic_pseudo_labels, tmp_path, peft):
    module = papt(encoder=HubertEncoder(str(network_folders["hubert", "layer"])), lora=LoRA(rank=2))
    data = pretrain_data(synthetic_corpus, synthetic_pseudo_labels)
    fit(module, data, tmp_path, max_steps=1).save_checkpoint(tmp_path / "papt.ckpt")
    saved = torch.load(tmp_path / "papt.ckpt", weights_only=True)
    again = papt(encoder=HubertEncoder("nowhere/at-all"))
    again.on_load_checkpoint(saved)
    again.load_state_dict(saved["state_dict"])
    torch.testing.assert_close(again.state_dict(), module.state_dict(), atol=0, rtol=0)

    def tuned(lora):
        module = finetuning(encoder=HubertEncoder(), papt_checkpoint=str(tmp_path / "papt.ckpt"), lora=lora)
        module.build(emotion_data(synthetic_corpus))
        return learning(module.personalized.encoder)

    assert all("lora_" in name for name in tuned(LoRA(rank=2)))
    # without --model.lora they are merged, and all weights learn
    merged = tuned(None)
    assert not any("lora_" in name for name in merged)
    assert "network.encoder.layers.0.attention.q_proj.weight" in merged
    refused("--model.lora: the checkpoint has adapters", tuned, LoRA(rank=3))
