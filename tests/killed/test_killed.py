"""Stages that are killed, twice each (`make soak`: fifty times), and fits that get signals."""

from __future__ import annotations

import os
import random
import re
import shlex
import signal
from typing import TYPE_CHECKING

import pytest
from kill_stages import STAGES
from killing import LONGEST, Stage, Unbroken, finish, output, start, survives, unbroken

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.process import BaseProcess

KILLS = 2
SLURM = {"SLURM_JOB_ID": "17", "SLURM_JOB_NAME": "fit", "SLURM_NTASKS": "1", "SLURM_NODEID": "0"}
SLURM |= {"SLURM_PROCID": "0", "SLURM_LOCALID": "0"}


@pytest.fixture(scope="module")
def prepared(make_once, synthetic_corpus, synthetic_pseudo_labels) -> Callable[[str], tuple[Stage, Unbroken]]:
    """A stage by name, and what comes of it if nobody kills it."""

    def prepare(name: str) -> tuple[Stage, Unbroken]:
        stage = STAGES[name](synthetic_corpus, synthetic_pseudo_labels)
        folder = make_once(f"unbroken-{name}", lambda folder: unbroken(stage, folder))
        return stage, Unbroken.read(stage, folder)

    return prepare


def join(process: BaseProcess) -> int | None:
    process.join(LONGEST)
    return process.exitcode


@pytest.mark.parametrize("name", STAGES)
def test_a_killed_stage_ends_as_an_unbroken_one(name, prepared, tmp_path):
    stage, whole = prepared(name)
    rng = random.Random(name)
    for kill in range(KILLS):
        survives(stage, whole, tmp_path / f"{kill}", rng, share=(kill + rng.random()) / KILLS)


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_fit_names_the_command_that_resumes_it_exactly(prepared, tmp_path, signum, code):
    stage, whole = prepared("finetune")
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


@pytest.mark.parametrize(("name", "signals"), [("finetune", [signal.SIGINT] * 2), ("kmeans", [signal.SIGINT])])
def test_a_ctrl_c_that_stops_at_once_loses_nothing(prepared, tmp_path, name, signals):
    stage, whole = prepared(name)
    process = start(stage.arguments(tmp_path), tmp_path, whole.changes // 2, signals=signals)
    assert join(process) == 130, output(tmp_path)
    if name == "kmeans":
        assert "Traceback" not in output(tmp_path)
        assert "ser: stopped by Ctrl-C; the same command resumes\n" in output(tmp_path)
    assert finish(stage, tmp_path) == 0, output(tmp_path)
    assert stage.same(stage.result(tmp_path), whole.result)


def test_a_job_that_slurm_queues_again_resumes_by_itself(prepared, tmp_path):
    stage, whole = prepared("papt")
    calls = tmp_path / "calls.txt"
    scontrol = tmp_path / "bin" / "scontrol"
    scontrol.parent.mkdir()
    # SLURM ends the job at once
    scontrol.write_text(f'#!/bin/sh\necho "$@" > {calls}\nkill -KILL $PPID\n')
    scontrol.chmod(0o755)
    environment = SLURM | {"PATH": f"{scontrol.parent}:{os.environ['PATH']}"}

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
