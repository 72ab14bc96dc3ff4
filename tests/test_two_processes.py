"""The stages on two processes of one machine, as on two devices."""

from __future__ import annotations

import json
import shlex
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
from command_line import configs, finetune_arguments, papt_arguments, ser, stage, trainer_flags
from killing import LONGEST, on_two, output, start
from lightning.pytorch import Callback
from tiny_models import emotion_data, finetuning, fit, papt, pretrain_data
from transformers import HubertConfig, HubertModel

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


def finish(words: list[object], folder: Path) -> None:
    assert on_two(words, folder) == [0, 0], output(folder)


@pytest.fixture(scope="module")
def run(make_once, synthetic_corpus, synthetic_pseudo_labels) -> Path:
    """PAPT, then fine-tuning from it, then a test with PLDC, each on two processes.

    Both trainings keep few activations, the second in bfloat16.
    """

    def make(folder: Path) -> None:
        HubertModel(HUBERT).save_pretrained(folder / "hubert")
        flags = [*ENCODER, "--model.encoder.pretrained", folder / "hubert", *trainer_flags(folder)]
        papt_words = papt_arguments(synthetic_corpus, synthetic_pseudo_labels)
        finish(["fit", *papt_words, *flags, *TWO], folder / "1")
        source = ["--model.papt_checkpoint", folder / "papt.ckpt", "--data.max_batch", "8"]
        source += ["--model.loss", "GlobalBatchLoss", "--trainer.precision", "bf16-mixed"]
        finish(["fit", *finetune_arguments(synthetic_corpus), *source, *flags, *TWO], folder / "2")
        test = arguments_of_test(synthetic_corpus, folder)
        finish([*test, *trainer_flags(folder / "tested"), *TWO], folder / "3")
        assert not list(folder.rglob(".gather*"))

    return make_once("two", make)


def arguments_of_test(corpus: Path, folder: Path) -> list[object]:
    # 18 utterances in batches of 7 are three batches, which two processes can't share evenly
    changes = ["--data.max_batch", "7", "--model.min_utterances", "3", "--trainer.callbacks.k", "3"]
    pldc = configs("pldc.yaml")
    return ["test", *finetune_arguments(corpus), *pldc, *changes, "--ckpt_path", folder / "finetune.ckpt"]


def only(folder: Path, name: str) -> Path:
    (path,) = folder.rglob(name)
    return path


def test_two_processes_score_a_checkpoint_as_one_does(run, tmp_path, synthetic_corpus):
    (run / "finetune.speaker_bank.safetensors").unlink()
    assert ser(*arguments_of_test(synthetic_corpus, run), *trainer_flags(tmp_path / "one")) == 0
    folders = (tmp_path / "one", run / "tested")
    one, two = (pd.json_normalize(json.loads(only(folder, "metrics.json").read_text())) for folder in folders)
    assert one.pop("checkpoint")[0] == str(run / "finetune.ckpt")
    assert one["splits.test1.rows.raw.attributes.arousal.speakers"][0] == 3
    pd.testing.assert_frame_equal(one, two.drop(columns="checkpoint"), rtol=0, atol=1e-5)
    one, two = (pd.read_csv(only(folder, "predictions.csv")) for folder in folders)
    assert len(one) == one["utterance"].nunique() == 18
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
    # as a user starts it: the second process is one that Lightning starts, with imports of its own
    process = start([*arguments, *flags, *TWO], tmp_path / "first", environment={"OMP_NUM_THREADS": "1"})
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
    finish([*shlex.split(command), "--trainer.max_steps", str(step + 2)], tmp_path / "second")
    assert torch.load(tmp_path / "papt-last.ckpt", weights_only=True)["global_step"] == step + 2


class Ungraded(Callback):
    """Lists weights that should learn and get no gradient, at which DDP would stop."""

    names: list[str] | None = None

    def on_after_backward(self, trainer, pl_module):
        weights = pl_module.named_parameters()
        self.names = [name for name, weight in weights if weight.requires_grad and weight.grad is None]


@pytest.mark.parametrize("fusion", FUSIONS)
def test_every_weight_of_papt_and_of_fine_tuning_gets_a_gradient(
    fusion, synthetic_corpus, synthetic_pseudo_labels, tmp_path
):
    pretrained, path = papt(fusion=fusion), tmp_path / "papt.ckpt"
    data = pretrain_data(synthetic_corpus, synthetic_pseudo_labels)
    fit(pretrained, data, tmp_path, max_steps=1, callbacks=[ungraded := Ungraded()]).save_checkpoint(path)
    assert ungraded.names == []
    for learnt in (True, False) if fusion == "first" else (True,):
        module = finetuning(papt_checkpoint=str(path), train_speaker_embedding=learnt)
        fit(module, emotion_data(synthetic_corpus), tmp_path, max_steps=1, callbacks=[ungraded := Ungraded()])
        assert ungraded.names == []
