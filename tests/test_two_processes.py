"""The stages on two processes of one machine, as on two devices."""

from __future__ import annotations

import json
import shlex
import time
from typing import TYPE_CHECKING

import pandas as pd
import pytest
import torch
from command_line import configs, finetune_arguments, papt_arguments, ser, stage, trainer_flags
from killing import LONGEST, output, start
from lightning.pytorch import Callback
from tiny_models import emotion_data, finetuning, fit, papt, pretrain_data
from transformers import HubertConfig, HubertModel

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess
    from pathlib import Path

HUBERT = HubertConfig(
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=32,
    conv_dim=[8] * 7,
    num_conv_pos_embedding_groups=2,
)
ENCODER = ["--model.encoder", "HubertEncoder", "--model.encoder.gradient_checkpointing", "true"]
EACH_STEP = {"name": "papt", "monitor": "val_loss", "mode": "min", "every_n_steps": 1}
TWO = ["--trainer.devices", "2", "--trainer.strategy", "ddp"]
FUSIONS = ["none", "first", "prefix", "concat", "last"]


def begin_on_two(folder: Path, *arguments: object) -> BaseProcess:
    """Start `ser` as a user would; the second process is one that Lightning starts, with imports of its own."""
    return start([str(word) for word in (*arguments, *TWO)], folder, environment={"OMP_NUM_THREADS": "1"})


def run_on_two(folder: Path, *arguments: object) -> None:
    process = begin_on_two(folder, *arguments)
    process.join(LONGEST)
    assert process.exitcode == 0, output(folder)
    assert "MEMBER: 2/2" in output(folder)


@pytest.fixture(scope="module")
def run(make_once, synthetic_corpus, synthetic_pseudo_labels) -> Path:
    """PAPT, then fine-tuning from it, then a test with PLDC, each on two processes.

    Both trainings keep few activations, the second in bfloat16.
    """

    def make(folder: Path) -> None:
        HubertModel(HUBERT).save_pretrained(folder / "hubert")
        flags = [*ENCODER, "--model.encoder.pretrained", folder / "hubert", *trainer_flags(folder)]
        run_on_two(folder / "1", "fit", *papt_arguments(synthetic_corpus, synthetic_pseudo_labels), *flags)
        source = ["--model.papt_checkpoint", folder / "papt.ckpt", "--data.max_batch", "8"]
        source += ["--model.loss", "GlobalBatchLoss", "--trainer.precision", "bf16-mixed"]
        run_on_two(folder / "2", "fit", *finetune_arguments(synthetic_corpus), *source, *flags)
        tested = trainer_flags(folder / "tested")
        run_on_two(folder / "3", "test", *arguments_of_test(synthetic_corpus, folder), *tested)
        assert not list(folder.rglob(".gather*"))

    return make_once("two", make)


def arguments_of_test(corpus: Path, folder: Path, max_batch: int = 7) -> list[object]:
    # 18 utterances in batches of 7 are three batches, which two processes can't share evenly
    changes = ["--data.max_batch", str(max_batch), "--model.min_utterances", "3", "--trainer.callbacks.k", "3"]
    pldc = configs("pldc.yaml")
    return [*finetune_arguments(corpus), *pldc, *changes, "--ckpt_path", folder / "finetune.ckpt"]


def only(folder: Path, name: str) -> Path:
    (path,) = folder.rglob(name)
    return path


def assert_close(one: object, two: object) -> None:
    if isinstance(one, dict):
        assert one.keys() == two.keys()
        for key in one:
            assert_close(one[key], two[key])
    elif isinstance(one, float):
        assert two == pytest.approx(one, abs=1e-5)
    else:
        assert two == one


def test_two_processes_score_a_checkpoint_as_one_does(run, tmp_path, synthetic_corpus):
    (run / "finetune.speaker_bank.safetensors").unlink()
    assert ser("test", *arguments_of_test(synthetic_corpus, run), *trainer_flags(tmp_path)) == 0
    one, two = (json.loads(only(folder, "metrics.json").read_text()) for folder in (tmp_path, run / "tested"))
    assert one.pop("checkpoint") == str(run / "finetune.ckpt")
    del two["checkpoint"]
    assert one["splits"]["test1"]["rows"]["raw"]["attributes"]["arousal"]["speakers"] == 3
    assert_close(one, two)
    one, two = (pd.read_csv(only(folder, "predictions.csv")) for folder in (tmp_path, run / "tested"))
    assert len(one) == one["utterance"].nunique() == 18
    pd.testing.assert_frame_equal(one, two, rtol=0, atol=1e-4)


def test_a_process_with_nothing_to_do_changes_nothing(run, tmp_path, synthetic_corpus):
    (run / "finetune.speaker_bank.safetensors").unlink()
    arguments = arguments_of_test(synthetic_corpus, run, max_batch=60)
    run_on_two(tmp_path / "said", "test", *arguments, *trainer_flags(tmp_path / "two"))
    (run / "finetune.speaker_bank.safetensors").unlink()
    assert ser("test", *arguments, *trainer_flags(tmp_path / "one")) == 0
    one, two = (json.loads(only(tmp_path / name, "metrics.json").read_text()) for name in ("one", "two"))
    assert_close(one, two)
    one, two = (pd.read_csv(only(tmp_path / name, "predictions.csv")) for name in ("one", "two"))
    pd.testing.assert_frame_equal(one, two, rtol=0, atol=1e-4)


def test_masked_prediction_on_two_processes_is_that_of_one(run, tmp_path, synthetic_corpus, synthetic_pseudo_labels):
    arguments = papt_arguments(synthetic_corpus, synthetic_pseudo_labels)
    one = stage("validate", *arguments, "--ckpt_path", run / "papt.ckpt", *trainer_flags(tmp_path))
    states = torch.load(run / "papt.ckpt", weights_only=True)["callbacks"].values()
    (two,) = (state["best_model_score"] for state in states if "best_model_score" in state)
    assert float(one.trainer.callback_metrics["val_loss"]) == pytest.approx(float(two), abs=1e-5)


def test_sigterm_ends_both_processes_and_the_command_it_names_goes_on(
    tmp_path, synthetic_corpus, synthetic_pseudo_labels
):
    arguments = ["fit", *papt_arguments(synthetic_corpus, synthetic_pseudo_labels), "--data.batch_seconds", "10"]
    config = {"trainer": {"callbacks": [{"class_path": "StageCheckpoint", "init_args": EACH_STEP}]}}
    flags = [*trainer_flags(tmp_path, max_epochs=200), "--config", json.dumps(config)]
    process = begin_on_two(tmp_path / "first", *arguments, *flags)
    while not (tmp_path / "papt-last.ckpt").exists():
        assert process.is_alive(), output(tmp_path / "first")
        time.sleep(0.05)
    process.terminate()
    process.join(LONGEST)
    told = output(tmp_path / "first")
    assert process.exitcode == 143, told
    (line,) = [line for line in told.splitlines() if line.startswith("ser: stopped by SIGTERM after step ")]
    _, _, command = line.partition("Resume with: ser ")
    step = torch.load(tmp_path / "papt-last.ckpt", weights_only=True)["global_step"]
    run_on_two(tmp_path / "second", *shlex.split(command), "--trainer.max_steps", str(step + 2))
    assert torch.load(tmp_path / "papt-last.ckpt", weights_only=True)["global_step"] == step + 2


@pytest.mark.parametrize("name", ["papt", "finetune"])
def test_training_on_two_processes_changes_weights(run, name):
    checkpoint = torch.load(run / f"{name}-last.ckpt", weights_only=True)
    assert checkpoint["global_step"] > 0
    assert all(torch.isfinite(weight).all() for weight in checkpoint["state_dict"].values())


class Ungraded(Callback):
    """Lists weights that should learn and get no gradient, at which DDP would stop."""

    names: list[str] | None = None

    def on_after_backward(self, trainer, pl_module):
        weights = pl_module.named_parameters()
        self.names = [name for name, weight in weights if weight.requires_grad and weight.grad is None]


@pytest.mark.parametrize("fusion", FUSIONS)
def test_every_weight_of_papt_gets_a_gradient(fusion, synthetic_corpus, synthetic_pseudo_labels, tmp_path):
    ungraded = Ungraded()
    data = pretrain_data(synthetic_corpus, synthetic_pseudo_labels)
    fit(papt(fusion=fusion), data, tmp_path, max_steps=1, callbacks=[ungraded])
    assert ungraded.names == []


@pytest.mark.parametrize("learnt", [True, False])
@pytest.mark.parametrize("fusion", FUSIONS)
def test_every_weight_of_fine_tuning_gets_a_gradient(
    fusion, learnt, synthetic_corpus, synthetic_pseudo_labels, tmp_path
):
    data = pretrain_data(synthetic_corpus, synthetic_pseudo_labels)
    fit(papt(fusion=fusion), data, tmp_path, max_steps=1).save_checkpoint(tmp_path / "papt.ckpt")
    ungraded = Ungraded()
    module = finetuning(papt_checkpoint=str(tmp_path / "papt.ckpt"), train_speaker_embedding=learnt)
    fit(module, emotion_data(synthetic_corpus), tmp_path, max_steps=1, callbacks=[ungraded])
    assert ungraded.names == []
