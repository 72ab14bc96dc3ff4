"""Stages that are killed (`make soak`: fifty times each), and fits that get signals."""

import json
import os
import random
import re
import shlex
import signal
from collections.abc import Callable
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import configs, finetune_arguments, papt_arguments, trainer_flags
from killing import LONGEST, Kept, Stage, Unbroken, finish, output, same, start, survives, unbroken

KILLS = int(os.environ.get("SER_KILLS", "1"))
SLURM = {"SLURM_JOB_ID": "17", "SLURM_JOB_NAME": "fit", "SLURM_NTASKS": "1", "SLURM_NODEID": "0"}
SLURM |= {"SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
TINY = ["--model.encoder", "TinyEncoder", "--model.encoder.dim", "16", "--model.encoder.layers", "1"]
# what is drawn at random: dropout, speakers that count as unseen, and augmentation
DRAWN = ["--model.encoder.dropout", "0.1", "--model.unseen_share", "0.5", *configs("augment.yaml")]
STAGES = ("kmeans", "cache", "papt", "finetune")


def command(name: str, corpus: Path, pseudo_labels: Path, folder: Path) -> list[str]:
    read = ["--data.corpus", f"{corpus}", "--data.batch_seconds", "4", "--out", f"{folder}/out"]
    read = [name, *configs(f"{name}.yaml", f"tiny/{name}.yaml"), *read]
    if name == "kmeans":
        return [*read, "--data.num_workers", "0", "--num_clusters", "12"]
    if name == "cache":
        return [*read, "--encoder", "MFCCEncoder"]
    small = [*TINY, *trainer_flags(folder, 2)]
    if name == "papt":
        small = [*papt_arguments(corpus, pseudo_labels), "--data.batch_seconds", "12", *small]
        return ["fit", *small, *resumed("papt", "val_loss", "min")]
    small = [*DRAWN, "--data.augmentation.noise", f"{corpus}", "--data.max_batch", "8", *small]
    return ["fit", *finetune_arguments(corpus), *small, *resumed("finetune", "val_ccc", "max")]


def resumed(name: str, monitor: str, mode: str) -> list[str]:
    """Keep a checkpoint after every step, and resume from the newest where there is one."""
    arguments = {"name": name, "monitor": monitor, "mode": mode, "every_n_steps": 1}
    callbacks = [{"class_path": "StageCheckpoint", "init_args": arguments}]
    return ["--config", json.dumps({"trainer": {"callbacks": callbacks}}), "--ckpt_path", "last"]


def result(name: str, folder: Path) -> dict[str, Kept]:
    """Every byte of k-means and caches; of a fit, the best and newest weights, how far they are and their scores."""
    if name in {"kmeans", "cache"}:
        return {path.name: path.read_bytes() for path in (folder / "out").iterdir() if path.suffix != ".tmp"}
    values: dict[str, Kept] = {}
    for which in (name, f"{name}-last"):
        checkpoint = torch.load(folder / f"{which}.ckpt", weights_only=True)
        (kept,) = (state for key, state in checkpoint["callbacks"].items() if "StageCheckpoint" in key)
        values |= {f"{which} {key}": weight.numpy() for key, weight in checkpoint["state_dict"].items()}
        values |= {f"{which} {key}": np.array(kept[key]) for key in ("best_model_score", "current_score")}
        values |= {f"{which} {key}": np.array(checkpoint[key]) for key in ("epoch", "global_step")}
    return values


@pytest.fixture(scope="module")
def prepared(make_once, synthetic_corpus, synthetic_pseudo_labels) -> Callable[[str], tuple[Stage, Unbroken]]:
    """A stage by name, and what comes of it if nobody kills it."""

    def prepare(name: str) -> tuple[Stage, Unbroken]:
        arguments = partial(command, name, synthetic_corpus, synthetic_pseudo_labels)
        stage = Stage(arguments, partial(result, name))
        folder = make_once(f"unbroken-{name}", lambda folder: unbroken(stage, folder))
        seconds, changes = ((folder / f"{name}.txt").read_text() for name in ("seconds", "changes"))
        return stage, Unbroken(stage.result(folder), float(seconds), int(changes))

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


def test_an_interrupted_fit_names_the_command_that_resumes_it_exactly(prepared, tmp_path):
    stage, whole = prepared("finetune")
    # by the clock it might be done before the signal reaches it
    process = start(stage.arguments(tmp_path), tmp_path, whole.changes // 2, signals=[signal.SIGINT])
    assert join(process) == 130, output(tmp_path)
    line = r"^ser: stopped by SIGINT after step \d+; saved as \S+finetune-last\.ckpt\. Resume with: ser (.*)$"
    assert output(tmp_path).count("\nser: stopped by ") == 1
    (command,) = re.findall(line, output(tmp_path), re.MULTILINE)
    assert join(start(shlex.split(command), tmp_path)) == 0, output(tmp_path)
    assert same(stage.result(tmp_path), whole.result)


@pytest.mark.parametrize(("name", "signals"), [("finetune", [signal.SIGINT] * 2), ("kmeans", [signal.SIGINT])])
def test_a_ctrl_c_that_stops_at_once_loses_nothing(prepared, tmp_path, name, signals):
    stage, whole = prepared(name)
    process = start(stage.arguments(tmp_path), tmp_path, whole.changes // 2, signals=signals)
    assert join(process) == 130, output(tmp_path)
    if name == "kmeans":
        assert "Traceback" not in output(tmp_path)
        assert "ser: stopped by Ctrl-C; the same command resumes\n" in output(tmp_path)
    assert finish(stage, tmp_path) == 0, output(tmp_path)
    assert same(stage.result(tmp_path), whole.result)


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
    assert same(stage.result(folder), whole.result)
