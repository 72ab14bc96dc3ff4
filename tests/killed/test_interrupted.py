"""Ctrl-C, SIGTERM and SLURM's SIGUSR1, sent to processes that fit."""

from __future__ import annotations

import os
import re
import shlex
import signal
from typing import TYPE_CHECKING

import pytest
from kill_stages import finetune, papt
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
def test_a_fit_that_is_told_to_stop_says_how_to_go_on_and_that_is_exact(stage, whole, tmp_path, signum, code):
    # by the clock it might be done before the signal reaches it
    process = start(stage.arguments(tmp_path), tmp_path, change=whole.changes // 2, signals=[signum])
    assert join(process) == code, output(tmp_path)
    (line,) = re.findall(r"^ser: stopped by .*$", output(tmp_path), re.MULTILINE)
    said = re.fullmatch(
        rf"ser: stopped by {signum.name} after step \d+; \S+finetune-last\.ckpt holds it\. Go on with: ser (.*)", line
    )
    assert said, line
    assert join(start(shlex.split(said[1]), tmp_path)) == 0, output(tmp_path)
    assert stage.same(stage.result(tmp_path), whole.result)


def test_a_second_signal_stops_at_once_and_loses_no_checkpoint(stage, whole, tmp_path):
    process = start(stage.arguments(tmp_path), tmp_path, change=whole.changes // 2, signals=[signal.SIGINT] * 2)
    assert join(process) == 130, output(tmp_path)
    assert finish(stage, tmp_path) == 0, output(tmp_path)
    assert stage.same(stage.result(tmp_path), whole.result)


def test_slurm_runs_a_job_again_and_it_goes_on_by_itself(synthetic_corpus, synthetic_pseudo_labels, tmp_path):
    stage = papt(synthetic_corpus, synthetic_pseudo_labels)
    asked = tmp_path / "asked.txt"
    scontrol = tmp_path / "bin" / "scontrol"
    scontrol.parent.mkdir()
    scontrol.write_text(f'#!/bin/sh\necho "$@" > {asked}\n')
    scontrol.chmod(0o755)
    environment = SLURM | {"PATH": f"{scontrol.parent}:{os.environ['PATH']}"}

    folder = tmp_path / "broken"
    arguments = stage.arguments(folder)
    assert arguments[-2:] == ["--ckpt_path", "last"]
    whole = unbroken(stage, tmp_path / "unbroken")
    process = start(arguments[:-2], folder, whole.changes // 2, environment, [signal.SIGUSR1])
    assert join(process) == 128 + signal.SIGUSR1, output(folder)
    assert asked.read_text() == "requeue 17\n"

    assert join(start(arguments[:-2], folder, environment=environment | {"SLURM_RESTART_COUNT": "1"})) == 0
    assert "Going on from" in output(folder)
    assert stage.same(stage.result(folder), whole.result)


def test_ctrl_c_in_kmeans_is_one_line_and_the_same_command_goes_on(synthetic_corpus, tmp_path):
    from kill_stages import kmeans

    stage = kmeans(synthetic_corpus, tmp_path)
    whole = unbroken(stage, tmp_path / "unbroken")
    folder = tmp_path / "stopped"
    process = start(stage.arguments(folder), folder, change=whole.changes // 2, signals=[signal.SIGINT])
    assert join(process) == 130, output(folder)
    assert "Traceback" not in output(folder)
    assert "ser: stopped by Ctrl-C; the same command goes on\n" in output(folder)
    assert finish(stage, folder) == 0, output(folder)
    assert stage.same(stage.result(folder), whole.result)
