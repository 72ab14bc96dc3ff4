from __future__ import annotations

import shlex

import pytest

from ser_personal.training.interruption import command_to_go_on, newest_checkpoint, was_requeued


@pytest.mark.parametrize(
    "arguments",
    [
        ["fit", "--config", "a b.yaml", "--seed_everything=3"],
        ["fit", "--ckpt_path", "old.ckpt", "--config", "a b.yaml", "--seed_everything=3"],
        ["fit", "--config", "a b.yaml", "--ckpt_path=old.ckpt", "--seed_everything=3"],
    ],
)
def test_the_command_to_paste_names_one_checkpoint(arguments):
    command = command_to_go_on(arguments, "runs/papt-last.ckpt")
    wanted = ["ser", "fit", "--config", "a b.yaml", "--seed_everything=3", "--ckpt_path", "runs/papt-last.ckpt"]
    assert shlex.split(command) == wanted


def test_the_newest_checkpoint_is_the_stages_own(tmp_path):
    stage = {"class_path": "ser_personal.training.checkpoints.StageCheckpoint", "init_args": {"name": "papt"}}
    other = {"class_path": "lightning.pytorch.callbacks.LearningRateMonitor", "init_args": {}}
    trainer = {"default_root_dir": str(tmp_path), "callbacks": [other, stage]}
    (tmp_path / "finetune-last.ckpt").touch()
    assert newest_checkpoint(trainer) is None
    (tmp_path / "papt-last.ckpt").touch()
    assert newest_checkpoint(trainer) == tmp_path / "papt-last.ckpt"
    assert newest_checkpoint({"default_root_dir": str(tmp_path), "callbacks": None}) is None


@pytest.mark.parametrize(("count", "requeued"), [(None, False), ("0", False), ("2", True)])
def test_a_job_that_slurm_runs_again(monkeypatch, count, requeued):
    monkeypatch.delenv("SLURM_RESTART_COUNT", raising=False)
    if count is not None:
        monkeypatch.setenv("SLURM_RESTART_COUNT", count)
    assert was_requeued() is requeued
