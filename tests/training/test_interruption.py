"""A loss that isn't finite, misspelt monitors, and SLURM's tasks; signals are in tests/killed/test_killed.py."""

import math
from datetime import timedelta
from types import SimpleNamespace

import pytest
import torch
from command_line import configs, finetune_arguments, forkserver, ser, trainer_flags
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.strategies import DDPStrategy
from tiny_models import emotion_data, encoder, fit
from torch.multiprocessing import ProcessRaisedException

from ser_personal import EmotionFineTuning
from ser_personal.errors import UserError
from ser_personal.training.interruption import FiniteLoss, KnownMonitors, refuse_other_tasks

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
    batch = data.train_dataloader().batch_sampler.plan(0)[SPOILED]
    ids = ", ".join(data.utterances[index].utterance_id for index in batch)
    options = {"max_epochs": 1, "accumulate_grad_batches": 2, "callbacks": [FiniteLoss()]}
    with pytest.raises(UserError, match=f"step {SPOILED // 2}: the loss .* nan for {ids}"):
        fit(module, data, tmp_path, **options)
    assert all(torch.isfinite(weight).all() for weight in module.parameters())


def test_two_devices_stop_at_the_same_step(synthetic_corpus, tmp_path):
    """The second one alone has a bad loss; a hang ends in another error."""
    forkserver()
    strategy = DDPStrategy(start_method="forkserver", timeout=timedelta(seconds=600))
    module, data = Spoiled(math.nan, rank=1), emotion_data(synthetic_corpus, max_batch=4)
    with pytest.raises(ProcessRaisedException, match="step 2: the loss of a device is NaN or infinite"):
        fit(module, data, tmp_path, devices=2, strategy=strategy, max_epochs=1, callbacks=[FiniteLoss()])


def test_a_misspelt_validation_score_is_refused_and_a_training_score_is_not():
    def check(monitor):
        logged = {"val_ccc": 0.5, "val_valence_overall_ccc": 0.5}
        running = SimpleNamespace(callback_metrics=logged, callbacks=[EarlyStopping(monitor)])
        KnownMonitors().on_sanity_check_end(running, None)

    for misspelt in ("valccc", "vla_ccc", "Val_ccc", "val_loss"):
        with pytest.raises(
            UserError, match=rf"EarlyStopping: the validation logs no {misspelt}\. Give .* one of val_ccc"
        ):
            check(misspelt)
    for name in ("val_ccc", "train_loss", "train_loss_epoch", "lr-AdamW", "valence_error", "ema_valence_overall_ccc"):
        check(name)


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({"NTASKS": "2"}, "You set `--ntasks=2` in your SLURM bash script"),
        ({"NTASKS": "2", "NTASKS_PER_NODE": "2"}, "SLURM: tasks: 2, devices: 1"),
        ({"NTASKS": "1", "JOB_NAME": "interactive"}, None),
    ],
)
@pytest.mark.parametrize("command", ["fit", "kmeans"])
def test_other_tasks_than_devices(monkeypatch, synthetic_corpus, tmp_path, capsys, command, variables, says):
    for name, value in (TASK | variables).items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    words = [*configs("kmeans.yaml", "tiny/kmeans.yaml"), "--data.corpus", synthetic_corpus, "--out", tmp_path]
    fitting = [*finetune_arguments(synthetic_corpus), *trainer_flags(tmp_path)]
    code = ser(command, *([*words, "--accelerator", "cpu"] if command == "kmeans" else fitting))
    assert code == (0 if says is None else 2)
    assert says is None or says in capsys.readouterr().err.splitlines()[-1]


def test_fewer_tasks_than_devices_are_refused(monkeypatch):
    for name, value in (TASK | {"NTASKS": "1"}).items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    running = Trainer(accelerator="cpu", devices=2, logger=False, enable_checkpointing=False)
    with pytest.raises(UserError, match="SLURM: tasks: 1, devices: 2"):
        refuse_other_tasks(running)
