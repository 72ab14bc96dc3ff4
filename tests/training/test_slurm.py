from __future__ import annotations

import pytest
from command_line import configs, finetune_arguments, ser, trainer_flags
from lightning.pytorch import Trainer

from ser_personal.errors import UserError
from ser_personal.training.interruption import trainer_for_tasks

TASK = {"JOB_ID": "1", "JOB_NAME": "x", "NODEID": "0", "PROCID": "0", "LOCALID": "0"}


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
        (
            {"NTASKS": "2"},
            1,
            r"^SLURM: You set `--ntasks=2` in your SLURM bash script, .* supported\. Ask SLURM for",
        ),
        ({"NTASKS": "2", "NTASKS_PER_NODE": "2"}, 1, r"^SLURM: You set `devices=1` in Lightning, .* not match\. Ask"),
        ({"NTASKS": "4", "NTASKS_PER_NODE": "1"}, 1, r"^SLURM: tasks: 4, devices: 1\. Ask SLURM for"),
        ({"NTASKS": "1"}, 2, r"^SLURM: tasks: 1, devices: 2\. "),
        ({"NTASKS": "2", "NTASKS_PER_NODE": "1"}, 2, r"^SLURM: You set `devices=2` in Lightning, .* not match\. Ask"),
    ],
)
def test_other_tasks_than_devices_are_refused(slurm, variables, devices, message):
    slurm(**variables)
    with pytest.raises(UserError, match=message):
        trainer_for_tasks(lambda: make(devices))


def test_a_missing_variable_is_named(slurm, monkeypatch):
    slurm(NTASKS="2", NTASKS_PER_NODE="2")
    monkeypatch.delenv("SLURM_PROCID")
    with pytest.raises(UserError, match=r"^SLURM: SLURM_PROCID isn't set\. "):
        trainer_for_tasks(lambda: make(2))


@pytest.mark.parametrize("variables", [{}, {"NTASKS": "1"}, {"NTASKS": "4", "JOB_NAME": "interactive"}])
def test_as_many_or_none_go_on(slurm, variables):
    slurm(**variables)
    assert trainer_for_tasks(make).world_size == 1


def test_an_error_of_another_place_goes_through(slurm):
    slurm(NTASKS="1")
    with pytest.raises(ValueError, match="invalid strategy"):
        trainer_for_tasks(lambda: Trainer(strategy="nope"))


@pytest.mark.parametrize("variables", [{"NTASKS": "2"}, {"NTASKS": "2", "NTASKS_PER_NODE": "2"}])
@pytest.mark.parametrize("command", ["fit", "kmeans"])
def test_commands_end_with_one_line(slurm, synthetic_corpus, tmp_path, capsys, command, variables):
    slurm(**variables)
    words = [*configs("kmeans.yaml", "tiny/kmeans.yaml"), "--data.corpus", synthetic_corpus, "--out", tmp_path]
    fit = [*finetune_arguments(synthetic_corpus), *trainer_flags(tmp_path)]
    assert ser(command, *([*words, "--accelerator", "cpu"] if command == "kmeans" else fit)) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("ser: SLURM: ")
