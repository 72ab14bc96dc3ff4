from __future__ import annotations

from types import SimpleNamespace

import pytest
import yaml
from torch.utils.tensorboard import SummaryWriter

from ser_personal.report.training_curves import fits_behind


def log(folder, version, stage, losses, *, start, papt=None, tag="train_loss"):
    """One version folder with a config, and a loss a second."""
    logs = folder / "lightning_logs" / f"version_{version}"
    with SummaryWriter(str(logs)) as writer:
        for step, loss in enumerate(losses):
            writer.add_scalar(tag, loss, step * 10, walltime=start + step)
    callback = {"class_path": "ser_personal.training.checkpoints.StageCheckpoint", "init_args": {"name": stage}}
    config = {"trainer": {"callbacks": [callback]}, "model": {"init_args": {"papt_checkpoint": papt}}}
    (logs / "config.yaml").write_text(yaml.safe_dump(config))


def run_of(checkpoint, folder):
    return SimpleNamespace(checkpoint=checkpoint and str(checkpoint), folder=folder)


@pytest.fixture
def logged(tmp_path):
    """Two fits of PAPT, a fine-tuning from it, and a test."""
    (tmp_path / "papt.ckpt").touch()
    finetuning = tmp_path / "papt"
    log(tmp_path, 0, "papt", [9.0, 8.0], start=100)
    log(tmp_path, 1, "papt", [5.0, 4.0, 3.0], start=200)
    log(tmp_path, 2, "papt", [7.0], start=300, tag="val_loss")
    log(tmp_path, 3, "tapt", [1.0], start=400)
    log(finetuning, 0, "finetune", [0.5, 0.25], start=500, papt=str(tmp_path / "papt.ckpt"))
    log(finetuning, 1, "finetune", [0.7], start=600, tag="test_ccc")
    (finetuning / "finetune.ckpt").touch()
    return finetuning


def test_the_newest_fits_that_made_the_checkpoint(logged):
    fits = fits_behind(run_of(logged / "finetune.ckpt", logged / "lightning_logs" / "version_1"))
    assert [(fit.stage, fit.curves[0].name, fit.curves[0].values) for fit in fits] == [
        ("papt", "train_loss", (5.0, 4.0, 3.0)),
        ("finetune", "train_loss", (0.5, 0.25)),
    ]
    assert [(fit.steps, fit.seconds) for fit in fits] == [(21, 2.0), (11, 1.0)]


def test_a_run_that_was_moved(logged, tmp_path):
    moved = tmp_path / "elsewhere"
    logged.rename(moved)
    fits = fits_behind(run_of("/gone/papt/finetune.ckpt", moved / "lightning_logs" / "version_1"))
    assert [fit.stage for fit in fits] == ["papt", "finetune"]


def test_nothing_beside_the_checkpoint(tmp_path):
    assert fits_behind(run_of(tmp_path / "finetune.ckpt", tmp_path)) == []
    assert fits_behind(run_of(None, tmp_path)) == []
