"""The stages on two processes of one machine, as on two devices."""

import json
import shlex
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
from command_line import configs, finetune_arguments, papt_arguments, ser, stage, trainer_flags
from killing import LONGEST, on_two, output, start
from tiny_models import emotion_data, finetuning, papt, pretrain_data, tiny_network

ENCODER = ["--model.encoder", "HubertEncoder", "--model.encoder.gradient_checkpointing", "true"]
EACH_STEP = {"name": "papt", "monitor": "val_loss", "mode": "min", "every_n_steps": 1}
BATCHES = ["--data.batch_seconds", "10"]
TWO = ["--trainer.devices", "2", "--trainer.strategy", "ddp"]


def finish(words: list[object], folder: Path) -> None:
    assert on_two(words, folder) == [0, 0], output(folder)


def stop_and_resume(words: list[object], folder: Path) -> None:
    """As a user starts it, the second process by Lightning; SIGTERM ends both, and the command named goes on."""
    process = start([str(word) for word in words], folder / "stopped", environment={"OMP_NUM_THREADS": "1"})
    while not (folder / "papt-last.ckpt").exists():
        assert process.is_alive(), output(folder / "stopped")
        time.sleep(0.05)
    process.terminate()
    process.join(LONGEST)
    printed = output(folder / "stopped")
    assert process.exitcode == 143, printed
    (line,) = [line for line in printed.splitlines() if line.startswith("ser: stopped by SIGTERM after step ")]
    _, _, command = line.partition("Resume with: ser ")
    stopped = torch.load(folder / "papt-last.ckpt", weights_only=True)
    finish([*shlex.split(command), "--trainer.max_epochs", str(stopped["epoch"] + 2)], folder / "resumed")
    assert torch.load(folder / "papt-last.ckpt", weights_only=True)["global_step"] > stopped["global_step"]


@pytest.fixture(scope="module")
def run(make_once, synthetic_corpus, synthetic_pseudo_labels) -> Path:
    """PAPT, stopped and resumed, fine-tuning from it in bfloat16, a test with PLDC, each on two processes."""

    def make(folder: Path) -> None:
        tiny_network("hubert", "layer").save_pretrained(folder / "hubert")
        flags = [*ENCODER, "--model.encoder.pretrained", folder / "hubert", *trainer_flags(folder), *TWO]
        pretraining = ["fit", *papt_arguments(synthetic_corpus, synthetic_pseudo_labels), *BATCHES]
        callbacks = {"trainer": {"callbacks": [{"class_path": "StageCheckpoint", "init_args": EACH_STEP}]}}
        endless = ["--config", json.dumps(callbacks), "--trainer.max_epochs", "200"]
        stop_and_resume([*pretraining, *flags, *endless], folder)
        source = ["--model.papt_checkpoint", folder / "papt.ckpt", "--data.max_batch", "8"]
        source += ["--model.loss", "GlobalBatchLoss", "--trainer.precision", "bf16-mixed"]
        finish(["fit", *finetune_arguments(synthetic_corpus), *source, *flags], folder / "2")
        test = arguments_of_test(synthetic_corpus, folder)
        finish([*test, *trainer_flags(folder / "tested"), *TWO], folder / "3")
        assert not list(folder.rglob(".gather*"))

    return make_once("two", make)


def arguments_of_test(corpus: Path, folder: Path) -> list[object]:
    # 18 utterances in batches of 7 are three batches, which two processes can't share evenly
    changes = ["--data.max_batch", "7", "--model.min_utterances", "3", "--trainer.callbacks.k", "3"]
    pldc = configs("pldc.yaml")
    return ["test", *finetune_arguments(corpus), *pldc, *changes, "--ckpt_path", folder / "finetune.ckpt"]


def test_two_processes_score_a_checkpoint_as_one_does(run, tmp_path, synthetic_corpus):
    (run / "finetune.speaker_bank.safetensors").unlink()
    assert ser(*arguments_of_test(synthetic_corpus, run), *trainer_flags(tmp_path / "one")) == 0
    folders = (tmp_path / "one", run / "tested")
    one, two = (json.loads(path.read_text()) for folder in folders for path in folder.rglob("metrics.json"))
    one, two = pd.json_normalize(one), pd.json_normalize(two)
    assert one.pop("checkpoint")[0] == str(run / "finetune.ckpt")
    assert one["splits.test1.rows.raw.attributes.arousal.speakers"][0] == 3
    pd.testing.assert_frame_equal(one, two.drop(columns="checkpoint"), rtol=0, atol=1e-5)
    one, two = (pd.read_csv(path) for folder in folders for path in folder.rglob("predictions.csv"))
    assert len(one) == one["utterance"].nunique() == 18
    pd.testing.assert_frame_equal(one, two, rtol=0, atol=1e-4)


def test_masked_prediction_on_two_processes_is_that_of_one(run, tmp_path, synthetic_corpus, synthetic_pseudo_labels):
    arguments = papt_arguments(synthetic_corpus, synthetic_pseudo_labels)
    one = stage("validate", *arguments, *BATCHES, "--ckpt_path", run / "papt.ckpt", *trainer_flags(tmp_path))
    states = torch.load(run / "papt.ckpt", weights_only=True)["callbacks"].values()
    (two,) = (state["best_model_score"] for state in states if "best_model_score" in state)
    assert float(one.trainer.callback_metrics["val_loss"]) == pytest.approx(float(two), abs=1e-5)


@pytest.mark.parametrize("fusion", ["none", "first", "prefix", "concat", "last"])
def test_every_weight_of_papt_and_of_fine_tuning_gets_a_gradient(fusion, synthetic_corpus, synthetic_pseudo_labels):
    """DDP stops at one that gets none."""
    pretraining, tuning = papt(fusion=fusion), finetuning(fusion=fusion, train_speaker_embedding=True)
    tuning.log = lambda *_args, **_options: None
    of_papt, of_emotions = pretrain_data(synthetic_corpus, synthetic_pseudo_labels), emotion_data(synthetic_corpus)
    pretraining.build(of_papt)
    prediction, _ = pretraining._predict(next(iter(of_papt.train_dataloader())), 0)
    tuning.build(of_emotions)
    loss = tuning.training_step(next(iter(of_emotions.train_dataloader())), 0)
    (prediction.loss + loss).backward()
    for module in (pretraining, tuning):
        assert [name for name, w in module.named_parameters() if w.requires_grad and w.grad is None] == []
