"""Precision, checkpointing, compiled kernels and the fused optimizer, together."""

from __future__ import annotations

from functools import partialmethod
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Callback
from tiny_models import finetuning, fit
from tiny_networks import padded_noise, tiny_network

from ser_personal.data.emotion import EmotionDataModule
from ser_personal.encoder import module as module_file
from ser_personal.encoder.hubert import HubertEncoder

LENGTHS = torch.tensor([8000, 5000, 6161])


@pytest.fixture(params=["group", "layer"])
def folder(request, tmp_path):
    tiny_network("hubert", request.param).save_pretrained(tmp_path)
    return str(tmp_path)


@pytest.fixture
def quickly_compiled(monkeypatch):
    """Graphs are made and run, but not turned into C++."""
    monkeypatch.setattr(torch.nn.Module, "compile", partialmethod(torch.nn.Module.compile, backend="eager"))


def gradients(encoder, lengths):
    waveforms = padded_noise(lengths)
    output = encoder(waveforms, lengths)
    output.frames[output.frame_mask].square().sum().backward()
    return {name: weight.grad for name, weight in encoder.named_parameters() if weight.grad is not None}


@pytest.mark.parametrize("lengths", [LENGTHS, torch.tensor([6000, 6000])])
def test_compiled_and_checkpointed_is_the_same_model(folder, lengths, quickly_compiled):
    plain, changed = HubertEncoder(folder), HubertEncoder(folder, gradient_checkpointing=True, compiled=True)
    for encoder in (plain, changed):
        encoder.build()
    assert plain.state_dict().keys() == changed.state_dict().keys()
    expected, reached = gradients(plain, lengths), gradients(changed, lengths)
    assert expected.keys() == reached.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(reached[name], gradient, rtol=1e-4, atol=1e-5)


def placed(device, scaler=None):
    return SimpleNamespace(
        strategy=SimpleNamespace(root_device=torch.device(device)), precision_plugin=SimpleNamespace(scaler=scaler)
    )


def test_the_optimizer_is_fused_on_a_gpu_where_nothing_scales_gradients():
    module = finetuning()
    for where, fused in ((placed("cuda"), True), (placed("cpu"), None), (placed("cuda", scaler=object()), None)):
        module.trainer = where
        optimizer = module.adamw([torch.nn.Parameter(torch.zeros(2))], None, lr=1.0)
        assert optimizer.defaults["fused"] is fused


class Norms(Callback):
    """Keeps how long gradients are when the optimizer takes them."""

    def __init__(self):
        self.norms = []

    def on_before_zero_grad(self, trainer, pl_module, optimizer):
        gradients = [weight.grad for weight in pl_module.parameters() if weight.grad is not None]
        if gradients:
            self.norms.append(float(torch.nn.utils.get_total_norm(gradients)))


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_fused_optimizer_clips_and_learns_as_another(precision, synthetic_corpus, tmp_path, monkeypatch):
    weights = []
    for fused in (False, True):
        if fused:
            monkeypatch.setattr(
                module_file, "AdamW", lambda *args, **kwargs: torch.optim.AdamW(*args, **kwargs | {"fused": True})
            )
        data = EmotionDataModule(str(synthetic_corpus), max_batch=16, num_workers=0)
        norms, module = Norms(), finetuning()
        running = fit(
            module, data, tmp_path, max_steps=3, precision=precision, gradient_clip_val=0.01, callbacks=[norms]
        )
        assert bool(running.optimizers[0].defaults["fused"]) is fused
        assert max(norms.norms) <= 0.0101
        weights.append([weight.detach().clone() for weight in module.parameters()])
    for one, other in zip(*weights, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
