from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from torch.utils.data import DataLoader

from ser_personal.errors import UserError
from ser_personal.training.checkpoints import AtomicCheckpoints, ExactResumption, Interrupted, StageCheckpoint
from ser_personal.training.interruption import Interruption

SCORES = [3.0, 1.0, 2.0]
BATCHES = 6
EPOCHS = 2
QUIET = {
    "accelerator": "cpu",
    "logger": False,
    "num_sanity_val_steps": 0,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}
pytestmark = pytest.mark.filterwarnings("ignore:Checkpoint directory", "ignore:.*could not find the monitored key")


class Epochs(LightningModule):
    """Counts its epochs in its one weight and scores each as `SCORES` says."""

    def __init__(self):
        super().__init__()
        self.epochs = torch.nn.Parameter(torch.zeros(()))

    def training_step(self, example, batch_idx):
        return -self.epochs

    def validation_step(self, example, batch_idx):
        self.log("val_loss", SCORES[self.current_epoch])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 1.0)


def run(folder, mode, epochs=3, checkpoint=None, **options):
    """Count epochs; -> the checkpoints that this leaves."""
    examples, callback = DataLoader(torch.zeros(1)), StageCheckpoint("papt", "val_loss", mode)
    trainer = Trainer(**QUIET, max_epochs=epochs, default_root_dir=folder, callbacks=callback, **options)
    trainer.fit(Epochs(), examples, examples, ckpt_path=checkpoint)
    return sorted(path.name for path in folder.glob("**/*.ckpt"))


def epoch_of(path):
    return torch.load(path, weights_only=True)["state_dict"]["epochs"].item()


@pytest.mark.parametrize(("mode", "best"), [("min", 2), ("max", 1)])
def test_best_and_newest_model_under_the_stage_s_name(tmp_path, mode, best):
    assert run(tmp_path, mode) == ["papt-last.ckpt", "papt.ckpt"]
    assert epoch_of(tmp_path / "papt.ckpt") == best
    assert epoch_of(tmp_path / "papt-last.ckpt") == 3
    # those of the best model, not of the newest
    assert json.loads((tmp_path / "papt.scores.json").read_text()) == {"val_loss": SCORES[best - 1]}


def test_an_earlier_fit_is_replaced_where_that_is_asked_for_alone(tmp_path, monkeypatch):
    run(tmp_path, "min")
    (tmp_path / "papt-last.ckpt").rename(tmp_path / "elsewhere.ckpt")
    for _ in range(2):
        with pytest.raises(UserError, match=r"papt\.ckpt: is of an earlier training run\. Resume .* --replace, or"):
            run(tmp_path, "min", epochs=1)
        assert epoch_of(tmp_path / "papt.ckpt") == 2
        run(tmp_path, "min", epochs=1, fast_dev_run=True)
        assert not (tmp_path / "papt-last.ckpt").exists()
    monkeypatch.setattr(StageCheckpoint, "replace", True)
    assert run(tmp_path, "min", epochs=1) == ["elsewhere.ckpt", "papt-last.ckpt", "papt.ckpt"]
    assert epoch_of(tmp_path / "papt.ckpt") == epoch_of(tmp_path / "papt-last.ckpt") == 1


def test_a_moved_folder_keeps_its_best_model(tmp_path):
    run(tmp_path / "before", "min", epochs=2)
    moved = (tmp_path / "before").rename(tmp_path / "after")
    copied = shutil.copy(moved / "papt-last.ckpt", tmp_path)
    run(moved, "min", epochs=3, checkpoint=moved / "papt-last.ckpt")
    assert (epoch_of(moved / "papt.ckpt"), epoch_of(moved / "papt-last.ckpt")) == (2, 3)
    # in a folder that doesn't hold it, it is chosen from here on
    run(tmp_path / "new", "min", epochs=3, checkpoint=copied)
    assert epoch_of(tmp_path / "new" / "papt.ckpt") == 3


def test_a_validation_elsewhere_says_nothing_of_the_best_model(tmp_path, caplog):
    run(tmp_path / "papt", "min", epochs=1)
    options = {
        **QUIET,
        "default_root_dir": tmp_path / "elsewhere",
        "callbacks": StageCheckpoint("papt", "val_loss", "min"),
    }
    module = Epochs()
    Trainer(**options).validate(module, DataLoader(torch.zeros(1)), ckpt_path=tmp_path / "papt" / "papt.ckpt")
    assert module.epochs.item() == 1
    assert "chosen from here on" not in caplog.text


def test_folder_is_the_trainers_even_from_a_relative_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(Path("runs"), "min", epochs=1)
    assert (tmp_path / "runs" / "papt.ckpt").is_file()


class Unsaveable:
    """Fails when half of the checkpoint is written."""

    def __reduce__(self):
        raise OSError("no space left on device")


def test_a_checkpoint_that_fails_midway_leaves_the_former(tmp_path):
    path, checkpoints = tmp_path / "papt.ckpt", AtomicCheckpoints()
    checkpoints.save_checkpoint({"step": 1}, path)
    with pytest.raises(OSError, match="no space"):
        checkpoints.save_checkpoint({"step": 2, "weights": torch.zeros(1000), "rest": Unsaveable()}, path)
    assert checkpoints.load_checkpoint(path, weights_only=True) == {"step": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_fit_left_half_written_is_removed(tmp_path):
    (tmp_path / ".papt.ckpt.123.tmp").write_bytes(b"half")
    (tmp_path / ".finetune.ckpt.123.tmp").write_bytes(b"another fit's")
    AtomicCheckpoints().save_checkpoint({"step": 1}, tmp_path / "papt.ckpt")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".finetune.ckpt.123.tmp", "papt.ckpt"]


class Numbers:
    """Batches 0 to 5, from a position that can be set."""

    def __init__(self):
        self.position = self.first = 0

    def __len__(self):
        return BATCHES

    def __iter__(self):
        self.position, self.first = self.first, 0
        while self.position < BATCHES:
            self.position += 1
            yield float(self.position)

    def state_dict(self):
        return {"position": self.position}

    def load_state_dict(self, state):
        self.first = state["position"] % BATCHES


class Walk(LightningModule):
    """Its weight depends on the order of all batches and on chance."""

    learning_rate = 0.1
    weight_decay = 0.0

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))

    def training_step(self, number, batch_idx):
        return self.weight * (number + torch.rand(()))

    def validation_step(self, number, batch_idx):
        self.log("val_loss", self.weight, batch_size=1)

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), self.learning_rate, weight_decay=self.weight_decay)
        total = self.trainer.estimated_stepping_batches
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / (total + 1))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class StopsAt(Callback):
    """Sends this process SIGTERM while it takes a step."""

    def __init__(self, batch):
        self.batch = batch

    def on_after_backward(self, trainer, pl_module):
        if trainer.fit_loop.total_batch_idx == self.batch:
            os.kill(os.getpid(), signal.SIGTERM)


class Validations(Callback):
    def __init__(self):
        self.seen: list[tuple[int, float]] = []

    def on_validation_end(self, trainer, pl_module):
        self.seen.append((trainer.global_step, float(trainer.callback_metrics["val_loss"])))


def fit(folder, options, *callbacks, checkpoint=None):
    """Fit, and give the weight that came out."""
    seed_everything(0, verbose=False)
    module = Walk()
    ours = [ExactResumption(), Interruption(), StageCheckpoint("walk", "val_loss", "min"), *callbacks]
    trainer = Trainer(**QUIET, max_epochs=EPOCHS, default_root_dir=folder, callbacks=ours, **options)
    trainer.fit(module, Numbers(), [0.0], ckpt_path=checkpoint)
    return module.weight.item()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"accumulate_grad_batches": 2},
        {"val_check_interval": 2},
        {"val_check_interval": 0.5, "accumulate_grad_batches": 2},
        {"val_check_interval": 4, "check_val_every_n_epoch": None},
        {"check_val_every_n_epoch": 2},
        {"limit_val_batches": 0},
    ],
    ids=str,
)
def test_a_fit_resumed_after_any_step_is_the_uninterrupted_one(options, tmp_path):
    validations = Validations()
    whole = fit(tmp_path / "whole", options, validations)
    for batch in range(BATCHES * EPOCHS):
        folder, seen = tmp_path / f"{batch}", Validations()
        try:
            assert fit(folder, options, StopsAt(batch), seen) == whole
        except Interrupted:
            assert fit(folder, options, seen, checkpoint=folder / "walk-last.ckpt") == whole
        else:
            assert batch > BATCHES * (EPOCHS - 1), "it ended before it could stop"
        assert seen.seen == validations.seen


@pytest.mark.parametrize(
    ("options", "settings", "message"),
    [
        ({"limit_train_batches": 3}, {}, "began with batches per epoch 6, this run has 3"),
        ({"accumulate_grad_batches": 2}, {}, "began with accumulate_grad_batches 1, this run has 2"),
        ({}, {"learning_rate": 0.2}, r"began with learning_rate 0\.1, this run has 0\.2"),
        ({}, {"weight_decay": 0.5}, r"began with weight_decay 0\.0, this run has 0\.5"),
    ],
)
def test_a_fit_is_not_resumed_with_steps_that_mean_something_else(tmp_path, monkeypatch, options, settings, message):
    with pytest.raises(Interrupted):
        fit(tmp_path, {}, StopsAt(8))
    for name, value in settings.items():
        monkeypatch.setattr(Walk, name, value)
    with pytest.raises(UserError, match=rf"walk-last\.ckpt: {message}\. Resume with its own settings"):
        fit(tmp_path, options, checkpoint=tmp_path / "walk-last.ckpt")


@pytest.mark.parametrize("batch", [BATCHES - 2, BATCHES + 2])
def test_a_fit_that_accumulates_by_a_schedule_is_resumed_in_any_epoch(batch, tmp_path):
    schedule = {0: 1, 1: 3}
    whole = fit(tmp_path / "whole", {}, GradientAccumulationScheduler(schedule))
    with pytest.raises(Interrupted):
        fit(tmp_path, {}, StopsAt(batch), GradientAccumulationScheduler(schedule))
    newest = tmp_path / "walk-last.ckpt"
    assert fit(tmp_path, {}, GradientAccumulationScheduler(schedule), checkpoint=newest) == whole


def test_a_longer_fit_goes_on_by_its_own_schedule(tmp_path):
    fit(tmp_path, {})
    module = Walk()
    trainer = Trainer(**QUIET, max_epochs=EPOCHS + 1, default_root_dir=tmp_path, callbacks=[ExactResumption()])
    trainer.fit(module, Numbers(), [0.0], ckpt_path=tmp_path / "walk-last.ckpt")
    assert trainer.global_step == BATCHES * (EPOCHS + 1)
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.1 / (BATCHES * (EPOCHS + 1) + 1))


def test_the_former_signal_handlers_are_put_back(tmp_path):
    before = [signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)]
    fit(tmp_path, {})
    assert [signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)] == before


def test_without_a_seed_nothing_is_seeded(monkeypatch):
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    before = torch.get_rng_state()
    ExactResumption().on_train_batch_start(Trainer(logger=False, accelerator="cpu"), Walk(), None, 0)
    assert torch.equal(torch.get_rng_state(), before)
