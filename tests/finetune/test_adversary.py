from __future__ import annotations

import math

import pytest
import torch
from command_line import configs, ser, trainer_flags
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import emotion_data, finetuning, fit
from torch.nn import functional

from ser_personal.finetune.adversary import GradientReversal, SpeakerAdversary
from ser_personal.finetune.module import EmotionFineTuning


@given(weight=st.floats(0, 10))
def test_the_gradient_is_turned_round_and_scaled(weight):
    values = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    plain = torch.autograd.grad(values.pow(3).sum(), values)[0]
    passed = GradientReversal.apply(values, weight)
    assert torch.equal(passed, values)
    torch.testing.assert_close(torch.autograd.grad(passed.pow(3).sum(), values)[0], -weight * plain)


def built(**options):
    torch.manual_seed(0)
    adversary = SpeakerAdversary(**{"hidden_dim": 8, "dropout": 0.0} | options)
    adversary.build(5, ["a", "b", "c"])
    return adversary


def test_the_classifier_learns_what_the_encoder_unlearns():
    adversary = built(weight=0.5, ramp_share=0.0)
    pooled = torch.randn(4, 5, requires_grad=True)
    loss = adversary(pooled, ["b", None, "stranger", "a"], progress=0.0)
    known, targets = torch.tensor([0, 3]), torch.tensor([1, 0])
    plain = functional.cross_entropy(adversary.layers(pooled[known]), targets)
    torch.testing.assert_close(loss, plain)
    weights = list(adversary.parameters())
    for mine, theirs in zip(
        torch.autograd.grad(loss, weights, retain_graph=True),
        torch.autograd.grad(plain, weights, retain_graph=True),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs)
    gradient = torch.autograd.grad(loss, pooled)[0]
    torch.testing.assert_close(gradient, -0.5 * torch.autograd.grad(plain, pooled)[0])
    assert not gradient[1:3].any()


def test_a_batch_of_strangers_costs_nothing_and_still_leads_backwards():
    adversary = built()
    loss = adversary(torch.randn(2, 5), [None, "stranger"], progress=1.0)
    loss.backward()
    assert loss == 0
    assert all(weight.grad is not None and not weight.grad.any() for weight in adversary.parameters())


def test_the_weight_climbs_along_the_papers_sigmoid():
    adversary = built(weight=0.2, ramp_share=0.5)
    assert adversary.weight_at(0.0) == 0
    assert adversary.weight_at(0.25) == pytest.approx(0.2 * (2 / (1 + math.exp(-5)) - 1))
    assert adversary.weight_at(0.5) == adversary.weight_at(1.0) == 0.2
    assert built(weight=0.2, ramp_share=0.0).weight_at(0.0) == 0.2


def test_a_checkpoint_loads_without_it(synthetic_corpus, tmp_path):
    data, path = emotion_data(synthetic_corpus), tmp_path / "finetune.ckpt"
    module = finetuning(adversary=SpeakerAdversary(hidden_dim=8))
    fit(module, data, tmp_path, max_steps=2).save_checkpoint(path)
    assert module.adversary.speaker_ids == data.train_speaker_ids
    loaded = EmotionFineTuning.load_from_checkpoint(path)
    assert not any("adversary" in name for name in loaded.state_dict())
    for name, weight in loaded.state_dict().items():
        assert torch.equal(weight, module.state_dict()[name]), name


@pytest.fixture(scope="module")
def run(synthetic_corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("adversarial")
    arguments = [*configs("finetune.yaml", "adversarial.yaml", "tiny/finetune.yaml"), "--data.corpus", synthetic_corpus]
    assert ser("fit", *arguments, *trainer_flags(folder)) == 0
    return arguments, folder


def test_the_command_line_trains_and_resumes_it(run):
    arguments, folder = run
    weights = torch.load(folder / "finetune.ckpt", weights_only=True)
    assert len(weights["adversary"]) == weights["state_dict"]["adversary.layers.3.weight"].shape[0]
    flags = trainer_flags(folder, max_epochs=2)
    assert ser("fit", *arguments, "--ckpt_path", folder / "finetune-last.ckpt", *flags) == 0


def test_its_size_can_not_be_changed_afterwards(run, capsys):
    arguments, folder = run
    changed = ["--ckpt_path", folder / "finetune.ckpt", "--model.adversary.hidden_dim", "7"]
    assert ser("test", *arguments, *changed, *trainer_flags(folder)) == 2
    assert "was trained with adversary.hidden_dim 128, not 7" in capsys.readouterr().err
