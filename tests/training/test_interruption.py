"""A loss that isn't finite, and SLURM's tasks; signals are in tests/killed/test_killed.py."""

import math
from datetime import timedelta
from types import SimpleNamespace

import pytest
import torch
from command_line import configs, finetune_arguments, forkserver, ser, trainer_flags
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, Timer
from lightning.pytorch.strategies import DDPStrategy
from tiny_models import emotion_data, encoder, fit
from torch.multiprocessing import ProcessRaisedException

from ser_personal import EmotionFineTuning
from ser_personal.errors import UserError
from ser_personal.training.interruption import FiniteLoss, KnownMonitors, trainer_for_tasks

SPOILED = 2
TASK = {"JOB_ID": "1", "JOB_NAME": "x", "NODEID": "0", "PROCID": "0", "LOCALID": "0"}


class Spoiled(EmotionFineTuning):
    """Fine-tuning with one batch, on one of the devices, whose audio is spoiled."""

    def __init__(self, value, rank=0):
        super().__init__(encoder=encoder(), attributes=("arousal",))
        self.value, self.rank = value, rank

    def training_step(self, batch, batch_idx):
        factor = self.value if (batch_idx, self.global_rank) == (SPOILED, self.rank) else 1
        return super().training_step({**batch, "waveforms": batch["waveforms"] * factor}, batch_idx)


def test_a_fit_stops_and_names_step_and_utterances(synthetic_corpus, tmp_path):
    data, module = emotion_data(synthetic_corpus, max_batch=8), Spoiled(math.inf)
    with pytest.raises(UserError) as caught:
        fit(module, data, tmp_path, max_epochs=1, accumulate_grad_batches=2, callbacks=[FiniteLoss()])
    batch = data.train_dataloader().batch_sampler.plan(0)[SPOILED]
    ids = [data.utterances[index].utterance_id for index in batch]
    assert str(caught.value).startswith(f"step {SPOILED // 2}: the loss is nan for {', '.join(ids)}. Listen to ")
    assert all(torch.isfinite(weight).all() for weight in module.parameters())


def test_two_devices_stop_at_the_same_step(synthetic_corpus, tmp_path):
    """The second one alone has a bad loss; a hang ends in another error."""
    forkserver()
    strategy = DDPStrategy(start_method="forkserver", timeout=timedelta(seconds=600))
    module, data = Spoiled(math.nan, rank=1), emotion_data(synthetic_corpus, max_batch=4)
    message = "step 2: the loss (is nan for .*|of another device is NaN or infinite)"
    with pytest.raises(ProcessRaisedException, match=message):
        fit(module, data, tmp_path, devices=2, strategy=strategy, max_epochs=1, callbacks=[FiniteLoss()])


def test_a_callback_waits_for_what_is_there():
    def check(callback):
        trainer = SimpleNamespace(callback_metrics={"val_ccc": 0.5, "other": 1}, callbacks=[callback])
        KnownMonitors().on_sanity_check_end(trainer, None)

    for monitor in (None, "epoch", "train_loss", "val_ccc"):
        check(ModelCheckpoint(monitor=monitor))
    check(EarlyStopping("val_acc", strict=False))
    check(Timer())
    for callback in (ModelCheckpoint(monitor="val_acc"), EarlyStopping("step")):
        with pytest.raises(UserError, match=rf"logs no {callback.monitor}\. Give as its monitor one of val_ccc"):
            check(callback)


@pytest.fixture
def slurm(monkeypatch):
    def start(**variables):
        for name, value in (TASK | variables).items():
            monkeypatch.setenv(f"SLURM_{name}", value)

    return start


def make(devices=1):
    return Trainer(accelerator="cpu", devices=devices, logger=False, enable_checkpointing=False)


@pytest.mark.parametrize(
    ("variables", "devices", "message"),
    [
        ({"NTASKS": "2"}, 1, r"^SLURM: You set `--ntasks=2` in your SLURM bash script, .* supported\. Ask SLURM for"),
        ({"NTASKS": "1"}, 2, r"^SLURM: tasks: 1, devices: 2\. "),
    ],
)
def test_other_tasks_than_devices_are_refused(slurm, variables, devices, message):
    slurm(**variables)
    with pytest.raises(UserError, match=message):
        trainer_for_tasks(lambda: make(devices))


@pytest.mark.parametrize("variables", [{"NTASKS": "1"}, {"NTASKS": "4", "JOB_NAME": "interactive"}])
def test_as_many_tasks_as_devices_or_none_are_fine(slurm, variables):
    slurm(**variables)
    assert trainer_for_tasks(make).world_size == 1
    with pytest.raises(ValueError, match="invalid strategy"):
        trainer_for_tasks(lambda: Trainer(strategy="nope"))


@pytest.mark.parametrize("command", ["fit", "kmeans"])
def test_commands_end_with_one_line(slurm, synthetic_corpus, tmp_path, capsys, command):
    slurm(NTASKS="2", NTASKS_PER_NODE="2")
    words = [*configs("kmeans.yaml", "tiny/kmeans.yaml"), "--data.corpus", synthetic_corpus, "--out", tmp_path]
    fitting = [*finetune_arguments(synthetic_corpus), *trainer_flags(tmp_path)]
    assert ser(command, *([*words, "--accelerator", "cpu"] if command == "kmeans" else fitting)) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("ser: SLURM: ")
