"""Ctrl-C, SIGTERM and SLURM's SIGUSR1, sent to processes that fit."""

from __future__ import annotations

import os
import re
import shlex
import signal
from typing import TYPE_CHECKING

import pytest
from kill_stages import finetune, kmeans, papt
from killing import LONGEST, Stage, Unbroken, finish, output, start, unbroken

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess
    from pathlib import Path

SLURM = {"SLURM_JOB_ID": "17", "SLURM_JOB_NAME": "fit", "SLURM_NTASKS": "1", "SLURM_NODEID": "0"}
SLURM |= {"SLURM_PROCID": "0", "SLURM_LOCALID": "0"}


@pytest.fixture(scope="module")
def stage(synthetic_corpus: Path, synthetic_pseudo_labels: Path) -> Stage:
    return finetune(synthetic_corpus, synthetic_pseudo_labels)


@pytest.fixture(scope="module")
def whole(stage: Stage, tmp_path_factory: pytest.TempPathFactory) -> Unbroken:
    return unbroken(stage, tmp_path_factory.mktemp("unbroken"))


def join(process: BaseProcess) -> int | None:
    process.join(LONGEST)
    return process.exitcode


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_fit_names_the_command_that_resumes_it_exactly(stage, whole, tmp_path, signum, code):
    # by the clock it might be done before the signal reaches it
    process = start(stage.arguments(tmp_path), tmp_path, whole.changes // 2, signals=[signum])
    assert join(process) == code, output(tmp_path)
    (line,) = re.findall(r"^ser: stopped by .*$", output(tmp_path), re.MULTILINE)
    command = re.fullmatch(
        rf"ser: stopped by {signum.name} after step \d+; saved as \S+finetune-last\.ckpt\. Resume with: ser (.*)", line
    )
    assert command, line
    assert join(start(shlex.split(command[1]), tmp_path)) == 0, output(tmp_path)
    assert stage.same(stage.result(tmp_path), whole.result)


def test_a_second_signal_stops_at_once_and_loses_no_checkpoint(stage, whole, tmp_path):
    process = start(stage.arguments(tmp_path), tmp_path, whole.changes // 2, signals=[signal.SIGINT] * 2)
    assert join(process) == 130, output(tmp_path)
    assert finish(stage, tmp_path) == 0, output(tmp_path)
    assert stage.same(stage.result(tmp_path), whole.result)


def test_a_job_that_slurm_queues_again_resumes_by_itself(synthetic_corpus, synthetic_pseudo_labels, tmp_path):
    stage = papt(synthetic_corpus, synthetic_pseudo_labels)
    calls = tmp_path / "calls.txt"
    scontrol = tmp_path / "bin" / "scontrol"
    scontrol.parent.mkdir()
    # SLURM ends the job at once
    scontrol.write_text(f'#!/bin/sh\necho "$@" > {calls}\nkill -KILL $PPID\n')
    scontrol.chmod(0o755)
    environment = SLURM | {"PATH": f"{scontrol.parent}:{os.environ['PATH']}"}
    whole = unbroken(stage, tmp_path / "unbroken")

    folder = tmp_path / "queued"
    arguments = stage.arguments(folder)
    assert arguments[-2:] == ["--ckpt_path", "last"]
    process = start(arguments[:-2], folder, whole.changes // 2, environment, [signal.SIGUSR1])
    assert join(process) == -signal.SIGKILL, output(folder)
    assert calls.read_text() == "requeue 17\n"
    assert (folder / "hpc_ckpt_1.ckpt").is_file()

    assert join(start(arguments[:-2], folder, environment=environment)) == 0, output(folder)
    assert "hpc_ckpt_1.ckpt" in output(folder)
    assert not (folder / "hpc_ckpt_1.ckpt").exists()
    assert stage.same(stage.result(folder), whole.result)


def test_ctrl_c_in_kmeans_is_one_line_and_the_same_command_resumes(synthetic_corpus, tmp_path):
    stage = kmeans(synthetic_corpus, tmp_path)
    whole = unbroken(stage, tmp_path / "unbroken")
    folder = tmp_path / "stopped"
    process = start(stage.arguments(folder), folder, whole.changes // 2, signals=[signal.SIGINT])
    assert join(process) == 130, output(folder)
    assert "Traceback" not in output(folder)
    assert "ser: stopped by Ctrl-C; the same command resumes\n" in output(folder)
    assert finish(stage, folder) == 0, output(folder)
    assert stage.same(stage.result(folder), whole.result)
