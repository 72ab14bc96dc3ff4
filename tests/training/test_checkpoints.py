import json
import os
import shutil
import signal
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from garbage import refused
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import EarlyStopping, GradientAccumulationScheduler

from ser_personal.data.resumable_loader import ExampleKey, GivenBatches, SpeechLoader
from ser_personal.training.checkpoints import AtomicCheckpoints, ExactResumption, Interrupted, StageCheckpoint
from ser_personal.training.interruption import Interruption

SCORES = [3.0, 1.0, 2.0]
BATCHES = 6
EPOCHS = 2
# within an epoch, before and after a validation, at an epoch's end and start
SOME_BATCHES = (1, 2, 5, 6, 9)
VALIDATIONS = [{}, {"check_val_every_n_epoch": 2}, {"val_check_interval": 4, "check_val_every_n_epoch": None}]
VALIDATIONS += [{"val_check_interval": 0.5, "accumulate_grad_batches": 2}]
OFF = dict.fromkeys(("logger", "num_sanity_val_steps", "enable_progress_bar", "enable_model_summary"), False)
QUIET = {**OFF, "accelerator": "cpu"}
pytestmark = pytest.mark.filterwarnings("ignore:Checkpoint directory", "ignore:.*could not find the monitored key")


def numbers():
    """Batches 1 to 6."""
    examples = {ExampleKey(index): index + 1.0 for index in range(BATCHES)}
    return SpeechLoader(examples, GivenBatches([[index] for index in range(BATCHES)]), lambda values: values[0])


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
    """Sends this process SIGTERM while it takes a step, or ends the fit there, and nothing is saved."""

    def __init__(self, batch, *, killed=False):
        self.batch, self.killed = batch, killed

    def on_after_backward(self, trainer, pl_module):
        if trainer.fit_loop.total_batch_idx == self.batch:
            if self.killed:
                raise KeyboardInterrupt
            os.kill(os.getpid(), signal.SIGTERM)


class Validations(Callback):
    def __init__(self):
        self.seen: list[tuple[int, float]] = []

    def on_validation_end(self, trainer, pl_module):
        self.seen.append((trainer.global_step, float(trainer.callback_metrics["val_loss"])))


class Scored(Walk):
    """Scores each epoch as `SCORES` says."""

    def validation_step(self, number, batch_idx):
        self.log("val_loss", SCORES[self.current_epoch], batch_size=1)


def fit(folder, options, *callbacks, checkpoint=None, kind=Walk):
    """Fit, and give the weight that came out."""
    seed_everything(0, verbose=False)
    module = kind()
    ours = [ExactResumption(), Interruption(), StageCheckpoint("walk", "val_loss", "min"), *callbacks]
    trainer = Trainer(**QUIET, **{"max_epochs": EPOCHS} | options, default_root_dir=folder, callbacks=ours)
    handlers = [signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)]
    trainer.fit(module, numbers(), [0.0], ckpt_path=checkpoint)
    # the former ones are put back
    assert [signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)] == handlers
    return module.weight.item()


def run(folder, epochs=3, checkpoint=None, **options):
    """Fit for some epochs of a step each; -> the checkpoints that this leaves."""
    fit(folder, {"max_epochs": epochs, "limit_train_batches": 1} | options, checkpoint=checkpoint, kind=Scored)
    return sorted(path.name for path in folder.glob("**/*.ckpt"))


def epoch_of(path):
    return torch.load(path, weights_only=True)["global_step"]


def test_best_and_newest_model_under_the_stage_s_name_in_the_trainers_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(Path("runs")) == ["walk-last.ckpt", "walk.ckpt"]
    folder = tmp_path / "runs"
    assert (epoch_of(folder / "walk.ckpt"), epoch_of(folder / "walk-last.ckpt")) == (2, 3)
    # those of the best model, not of the newest
    assert json.loads((folder / "walk.scores.json").read_text()) == {"val_loss": SCORES[1]}


def test_an_earlier_fit_is_replaced_where_that_is_asked_for_alone(tmp_path, monkeypatch):
    run(tmp_path)
    (tmp_path / "walk-last.ckpt").rename(tmp_path / "elsewhere.ckpt")
    run(tmp_path, epochs=1, fast_dev_run=True)
    assert not (tmp_path / "walk-last.ckpt").exists()
    refused(r"walk\.ckpt: is of an earlier training run\. Resume .* --replace, or", run, tmp_path, epochs=1)
    assert epoch_of(tmp_path / "walk.ckpt") == 2
    monkeypatch.setattr(StageCheckpoint, "replace", True)
    assert run(tmp_path, epochs=1) == ["elsewhere.ckpt", "walk-last.ckpt", "walk.ckpt"]
    assert epoch_of(tmp_path / "walk.ckpt") == epoch_of(tmp_path / "walk-last.ckpt") == 1


def test_a_moved_folder_keeps_its_best_model(tmp_path, caplog, monkeypatch):
    run(tmp_path / "before", epochs=2)
    moved = (tmp_path / "before").rename(tmp_path / "after")
    copied = shutil.copy(moved / "walk-last.ckpt", tmp_path)
    run(moved, epochs=3, checkpoint=moved / "walk-last.ckpt")
    assert (epoch_of(moved / "walk.ckpt"), epoch_of(moved / "walk-last.ckpt")) == (2, 3)
    # in a folder that doesn't hold it, or another one
    caplog.set_level("INFO")
    monkeypatch.setattr(StageCheckpoint, "replace", True)
    run(tmp_path / "another", epochs=1)
    for name in ("new", "another"):
        caplog.clear()
        run(tmp_path / name, epochs=3, checkpoint=copied)
        assert "chosen from here on" in caplog.text
        assert epoch_of(tmp_path / name / "walk.ckpt") == 3


def test_a_fit_resumed_from_an_older_checkpoint_keeps_a_better_model(tmp_path, caplog, monkeypatch):
    run(tmp_path, epochs=1)
    older = shutil.copy(tmp_path / "walk-last.ckpt", tmp_path / "older.ckpt")
    run(tmp_path, epochs=2, checkpoint=tmp_path / "walk-last.ckpt")
    monkeypatch.setattr("test_checkpoints.SCORES", [3.0, 2.0, 1.5, 0.5])
    caplog.set_level("INFO")
    run(tmp_path, epochs=3, checkpoint=older)
    assert "walk.ckpt (val_loss 1.000) is better than the resumed checkpoint's best (3.000)" in caplog.text
    assert (epoch_of(tmp_path / "walk.ckpt"), epoch_of(tmp_path / "walk-last.ckpt")) == (2, 3)
    run(tmp_path, epochs=4, checkpoint=tmp_path / "walk-last.ckpt")
    assert epoch_of(tmp_path / "walk.ckpt") == 4
    monkeypatch.setattr(StageCheckpoint, "replace", True)
    run(tmp_path, epochs=2, checkpoint=older)
    assert json.loads((tmp_path / "walk.scores.json").read_text()) == {"val_loss": 2.0}


def test_a_checkpoint_that_fails_midway_leaves_the_former(tmp_path):
    path, checkpoints = tmp_path / "walk.ckpt", AtomicCheckpoints()
    # of a fit that was killed
    (tmp_path / ".walk.ckpt.123.tmp").write_bytes(b"half")
    checkpoints.save_checkpoint({"step": 1}, path)
    with pytest.raises(AttributeError, match=r"Can't (pickle|get local)"):
        checkpoints.save_checkpoint({"step": 2, "weights": torch.zeros(1000), "rest": lambda: None}, path)
    assert checkpoints.load_checkpoint(path, weights_only=True) == {"step": 1}
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("options", VALIDATIONS, ids=str)
def test_a_fit_resumed_after_any_step_is_the_uninterrupted_one(options, tmp_path):
    validations = Validations()
    whole = fit(tmp_path / "whole", options, validations)
    for batch in SOME_BATCHES if options else range(1, BATCHES * EPOCHS):
        folder, seen = tmp_path / f"{batch}", Validations()
        try:
            assert fit(folder, options, StopsAt(batch), seen) == whole
        except Interrupted:
            assert fit(folder, options, seen, checkpoint=folder / "walk-last.ckpt") == whole
        else:
            assert batch > BATCHES * (EPOCHS - 1), "it ended before it could stop"
        assert seen.seen == validations.seen


@pytest.mark.parametrize("options", [{}, {"max_steps": 2 * BATCHES}, {"max_steps": 2 * BATCHES - 2}], ids=str)
def test_a_fit_resumed_from_the_end_of_an_epoch_goes_on_with_the_next(options, tmp_path):
    whole, validations = fit(tmp_path / "whole", options, seen := Validations()), Validations()
    with suppress(KeyboardInterrupt, SystemExit):
        fit(tmp_path, options, StopsAt(BATCHES + 1, killed=True), validations)
    assert fit(tmp_path, options, validations, checkpoint=tmp_path / "walk-last.ckpt") == whole
    assert validations.seen == seen.seen


def test_a_fit_is_not_resumed_with_steps_that_mean_something_else(tmp_path, monkeypatch):
    def resume(**options):
        fit(tmp_path, options, checkpoint=tmp_path / "walk-last.ckpt")

    with pytest.raises(Interrupted):
        fit(tmp_path, {}, StopsAt(8))
    line = r"walk-last\.ckpt: began with {}, this run has {}\. Resume with its own settings"
    refused(line.format("batches per epoch 6", 3), resume, limit_train_batches=3)
    refused(line.format("accumulate_grad_batches 1", 2), resume, accumulate_grad_batches=2)
    monkeypatch.setattr(Walk, "weight_decay", 0.5)
    refused(line.format("weight_decay 0.0", 0.5), resume)
    monkeypatch.setattr(Walk, "learning_rate", 0.2)
    refused(line.format("learning_rate 0.1", 0.2), resume)


def test_a_fit_that_stopped_early_is_not_trained_on_unless_patience_grows(tmp_path, caplog):
    def resumed(checkpoint=tmp_path / "walk-last.ckpt", **options):
        stopping = EarlyStopping("val_loss", **{"min_delta": 1e9, "patience": 1} | options)
        return fit(tmp_path, {"val_check_interval": 0.5}, stopping, checkpoint=checkpoint)

    stopped = resumed(checkpoint=None)
    with caplog.at_level("INFO"):
        assert resumed() == resumed() == stopped
    assert "walk-last.ckpt stopped early: no better val_loss in 1 validations" in caplog.text
    assert resumed(patience=9) != stopped


@pytest.mark.parametrize("batch", [5, BATCHES, BATCHES + 2])
def test_a_fit_that_accumulates_by_a_schedule_is_resumed_by_it(batch, tmp_path):
    schedule = {0: 1, 1: 3}
    whole = fit(tmp_path / "whole", {}, GradientAccumulationScheduler(schedule))
    with pytest.raises(Interrupted):
        fit(tmp_path, {}, StopsAt(batch), GradientAccumulationScheduler(schedule))
    newest = tmp_path / "walk-last.ckpt"
    refused("began with accumulate_grad_batches", fit, tmp_path, {}, checkpoint=newest)
    assert fit(tmp_path, {}, GradientAccumulationScheduler(schedule), checkpoint=newest) == whole


def test_a_longer_fit_goes_on_by_its_own_schedule(tmp_path):
    fit(tmp_path, {})
    trainer = Trainer(**QUIET, max_epochs=EPOCHS + 1, default_root_dir=tmp_path, callbacks=[ExactResumption()])
    trainer.fit(Walk(), numbers(), [0.0], ckpt_path=tmp_path / "walk-last.ckpt")
    assert trainer.global_step == (steps := BATCHES * (EPOCHS + 1))
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.1 / (steps + 1))
