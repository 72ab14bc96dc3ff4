"""Runs of a study: whole ones kept, broken ones begun again or gone on with, failures contained."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from shutil import copy

import pytest

from ser_personal.errors import UserError
from ser_personal.report.compare import read_record
from ser_personal.study.grid import Preparation, Recipe, Study, expand
from ser_personal.study.runner import RunFolder, hash_inputs, run_all

STEP = Preparation("papt", "fit", arguments={"seed_everything": "{seed}"})


class Killed(BaseException):
    """The study is killed here."""


class FakeRunner:
    """Leaves what a stage would, and fails or is killed where told to."""

    def __init__(self, failing=(), killed_at=None):
        self.ran, self.failing, self.killed_at, self.stopped = [], failing, killed_at, False

    def run(self, words, log):
        place = Path(words[words.index("--trainer.default_root_dir") + 1])
        self.ran.append((words[0], place.parent, words))
        if len(self.ran) == self.killed_at:
            place.mkdir(parents=True, exist_ok=True)
            (place / "half").touch()
            raise Killed
        if any(name in str(place) for name in self.failing):
            log.write_text("Traceback\nValueError: the loss is NaN\n\n")
            return 1, {}
        place.mkdir(parents=True, exist_ok=True)
        (place / "speaker_moments.csv").touch()
        (place / f"{words[0]}_cost.json").write_text(json.dumps({"seconds": 7.0, "flops": 8.0, "devices": 1}))
        return 0, {"seconds": 9.0, "cpu_seconds": 1.0, "peak_memory": 5}

    def stop(self):
        self.stopped = True


class Silent(nullcontext):
    def begin(self, folder, stage):
        pass

    def end(self, folder, ended):
        pass


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "finetune.yaml"
    path.write_text("model: {}")
    return path


def study_of(config, **changes):
    recipes = tuple(Recipe(name, [str(config)], {"data.x": "{papt}"}) for name in ("one", "two"))
    return Study(**{"corpus": "corpus", "recipes": recipes, "prepare": (STEP,), "seeds": (0, 1), **changes})


def run_study(root, study, runner, jobs=1):
    runs = expand(study)
    hashes = hash_inputs(runs)
    return run_all([RunFolder(root, run, hashes[run.folder]) for run in runs], runner, jobs, Silent())


def outcomes(ended):
    return {folder: each.outcome for folder, each in ended.items()}


def test_a_whole_study_runs_each_stage_once_and_then_nothing(tmp_path, config):
    runner = FakeRunner()
    ended = run_study(tmp_path, study_of(config), runner, jobs=2)
    assert set(outcomes(ended).values()) == {"done"}
    assert len(runner.ran) == 2 + 2 * 2 * 2
    record = read_record(tmp_path / "runs/one/seed_1")
    assert (record.results, record.needs, record.seed) == ("test", ("prepare/papt/seed_1",), 1)
    # what the stage itself recorded counts, and the process's memory
    fit, test = record.stages
    assert (fit.command, fit.seconds, fit.flops, fit.peak_memory, test.command) == ("fit", 7.0, 8.0, 5, "test")
    again = FakeRunner()
    assert set(outcomes(run_study(tmp_path, study_of(config), again)).values()) == {"kept"}
    assert again.ran == []


@pytest.mark.parametrize("killed_at", range(1, 11))
def test_killed_anywhere_it_ends_as_if_it_had_not_been(tmp_path, config, killed_at):
    first = FakeRunner(killed_at=killed_at)
    with pytest.raises(Killed):
        run_study(tmp_path, study_of(config), first)
    assert first.stopped
    second = FakeRunner()
    ended = run_study(tmp_path, study_of(config), second)
    assert all(each.is_whole for each in ended.values())
    # the broken stage runs again, nothing else twice, and what it had left is gone
    assert len(first.ran) + len(second.ran) == 10 + 1
    assert not list(tmp_path.rglob("half"))


def test_a_failure_stops_only_what_needs_it(tmp_path, config):
    ended = run_study(tmp_path, study_of(config), FakeRunner(failing=["papt/seed_0", "two/seed_1"]))
    assert outcomes(ended) == {
        "prepare/papt/seed_0": "failed",
        "prepare/papt/seed_1": "done",
        "runs/one/seed_0": "blocked",
        "runs/one/seed_1": "done",
        "runs/two/seed_0": "blocked",
        "runs/two/seed_1": "failed",
    }
    assert ended["runs/two/seed_1"].reason == "ValueError: the loss is NaN"
    assert ended["runs/one/seed_0"].reason == "it needs prepare/papt/seed_0, which failed"


def test_other_inputs_begin_again_with_all_that_follows(tmp_path, config):
    run_study(tmp_path, study_of(config), FakeRunner())
    other = study_of(config, prepare=(Preparation("papt", "fit", arguments={"seed_everything": "{seed}", "x": 1}),))
    assert set(outcomes(run_study(tmp_path, other, FakeRunner())).values()) == {"done"}
    config.write_text("model: {other: 1}")
    ended = outcomes(run_study(tmp_path, other, FakeRunner()))
    assert {name for name, outcome in ended.items() if outcome == "kept"} == {
        "prepare/papt/seed_0",
        "prepare/papt/seed_1",
    }


def test_a_fit_goes_on_from_its_last_checkpoint(tmp_path, config, finetuned_checkpoint):
    study = study_of(config, recipes=(Recipe("one", [str(config)]),), prepare=(), seeds=(0,))
    with pytest.raises(Killed):
        run_study(tmp_path, study, FakeRunner(killed_at=1))
    last = copy(finetuned_checkpoint, tmp_path / "runs/one/seed_0/fit/finetune-last.ckpt")
    runner = FakeRunner()
    run_study(tmp_path, study, runner)
    assert runner.ran[0][2][-2:] == ["--ckpt_path", str(last)]
    assert (tmp_path / "runs/one/seed_0/fit/half").exists()


def test_a_fit_whose_last_checkpoint_is_damaged_begins_again(tmp_path, config):
    study = study_of(config, recipes=(Recipe("one", [str(config)]),), prepare=(), seeds=(0,))
    with pytest.raises(Killed):
        run_study(tmp_path, study, FakeRunner(killed_at=1))
    (tmp_path / "runs/one/seed_0/fit/finetune-last.ckpt").write_bytes(b"PK cut off")
    runner = FakeRunner()
    run_study(tmp_path, study, runner)
    assert "--ckpt_path" not in runner.ran[0][2]


def test_a_missing_yaml_is_named(tmp_path):
    study = Study("corpus", (Recipe("one", ["nowhere.yaml"]),))
    with pytest.raises(UserError, match=r"nowhere\.yaml: no such config file"):
        hash_inputs(expand(study))
