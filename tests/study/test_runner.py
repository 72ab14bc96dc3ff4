"""Runs of a study: complete ones kept, broken ones run again or resumed, failures contained."""

import json
import multiprocessing
import time
from pathlib import Path
from unittest.mock import Mock

import pandas as pd
import pytest
import yaml
from command_line import REPOSITORY, forkserver, ser
from tiny_models import smallest_configs

from ser_personal.comparison.runs import read_record
from ser_personal.errors import UserError
from ser_personal.study import runner
from ser_personal.study.grid import Preparation, Recipe, Study, expand
from ser_personal.study.runner import Launcher, StudyRun, hash_inputs, locked, refuse_to_replace, run_all

STEP = Preparation("papt", "fit", arguments={"seed_everything": "{seed}"})
RIDGE = {"name": "ridge", "command": "baseline", "arguments": {"corpus": "{corpus}"}}


class Killed(BaseException):
    """The study is killed here."""


class FakeLauncher:
    """Leaves what a stage would, and fails or is killed where it should."""

    def __init__(self, failing=(), killed_at=None):
        self.ran, self.failing, self.killed_at, self.stopped = [], failing, killed_at, False

    def run(self, argv, log):
        if self.killed_at is not None and len(self.ran) == self.killed_at:
            raise Killed
        place = Path(argv[argv.index("--trainer.default_root_dir") + 1])
        self.ran.append(argv)
        place.mkdir(parents=True, exist_ok=True)
        if len(self.ran) == self.killed_at:
            (place / "half").touch()
            raise Killed
        if any(name in str(place) for name in self.failing):
            log.write_text("Traceback\nValueError: the loss is NaN\n\n")
            return 1, {}
        (place / "speaker_moments.csv").touch()
        (place / f"{argv[0]}_cost.json").write_text(json.dumps({"seconds": 7.0, "devices": 1}))
        return 0, {"seconds": 9.0, "cpu_seconds": 1.0}

    def stop(self):
        self.stopped = True


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "finetune.yaml"
    path.write_text("model: {}")
    return path


def study_of(config, **changes):
    recipes = tuple(Recipe(name, [str(config)], {"data.x": "{papt}"}) for name in ("one", "two"))
    common = {"corpus": "corpus", "prepare": (STEP,), "seeds": (0, 1), "fit_configs": (), "test_configs": ()}
    return Study(**common | {"recipes": recipes} | changes)


def folders_of(root, study):
    runs = expand(study)
    hashes = hash_inputs(runs, study.corpus)
    return [StudyRun(root, run, hashes[run.folder]) for run in runs]


def run_study(root, study, launcher, jobs=1):
    return run_all(folders_of(root, study), launcher, jobs)


def statuses(outcomes):
    return {folder: outcome.status for folder, outcome in outcomes.items()}


def test_a_study_runs_each_stage_once_and_then_nothing(tmp_path, config):
    launcher = FakeLauncher()
    assert set(statuses(run_study(tmp_path, study_of(config), launcher, jobs=2)).values()) == {"done"}
    assert len(launcher.ran) == 2 + 2 * 2 * 2
    record = read_record(tmp_path / "runs/one/seed_1")
    assert (record.results, record.needs, record.seed) == ("test", ["prepare/papt/seed_1"], 1)
    # what the stage itself recorded counts
    fit, test = record.stages
    assert (fit.command, fit.seconds, fit.cpu_seconds, test.command) == ("fit", 7.0, 1.0, "test")
    again = FakeLauncher()
    assert set(statuses(run_study(tmp_path, study_of(config), again)).values()) == {"kept"}
    assert again.ran == []


@pytest.mark.parametrize("killed_at", range(1, 11))
def test_killed_anywhere_it_ends_as_if_it_had_not_been(tmp_path, config, killed_at):
    first, second = FakeLauncher(killed_at=killed_at), FakeLauncher()
    with pytest.raises(Killed):
        run_study(tmp_path, study_of(config), first)
    assert first.stopped
    assert all(outcome.is_complete for outcome in run_study(tmp_path, study_of(config), second).values())
    # the broken stage runs again, nothing else twice, and what it had left is gone
    assert len(first.ran) + len(second.ran) == 10 + 1
    assert not list(tmp_path.rglob("half"))


def test_a_failure_stops_only_what_needs_it(tmp_path, config):
    outcomes = run_study(tmp_path, study_of(config), FakeLauncher(failing=["papt/seed_0", "two/seed_1"]))
    ends = {"prepare/papt": ("failed", "done"), "runs/one": ("blocked", "done"), "runs/two": ("blocked", "failed")}
    assert statuses(outcomes) == {f"{name}/seed_{n}": end for name, of in ends.items() for n, end in enumerate(of)}
    assert outcomes["runs/two/seed_1"].detail == "ValueError: the loss is NaN"
    assert outcomes["runs/one/seed_0"].detail == "it needs prepare/papt/seed_0, which failed"


def test_other_inputs_run_again_with_all_that_needs_them_and_not_unasked(tmp_path, config):
    run_study(tmp_path, study_of(config), FakeLauncher())
    refuse_to_replace(folders_of(tmp_path, study_of(config)), tmp_path)
    other = study_of(config, prepare=(Preparation("papt", "fit", arguments={"seed_everything": "{seed}", "x": 1}),))
    with pytest.raises(UserError, match=r"would delete 6 runs made with other settings .*`--replace true`"):
        refuse_to_replace(folders_of(tmp_path, other), tmp_path)
    assert set(statuses(run_study(tmp_path, other, FakeLauncher())).values()) == {"done"}
    config.write_text("# a comment changes nothing\nmodel: {}")
    assert set(statuses(run_study(tmp_path, other, FakeLauncher())).values()) == {"kept"}
    config.write_text("model: {other: 1}")
    kept = {name for name, status in statuses(run_study(tmp_path, other, FakeLauncher())).items() if status == "kept"}
    assert kept == {"prepare/papt/seed_0", "prepare/papt/seed_1"}


def test_another_corpus_under_the_same_path_is_another_input(tmp_path, config):
    corpus = tmp_path / "corpus.csv"
    (tmp_path / "a.wav").write_bytes(b"12")
    corpus.write_text("path,speaker,split,arousal\na.wav,s,train,3\n")
    study = study_of(config, corpus=str(corpus))
    for path, old, new in ((tmp_path / "a.wav", "12", "13"), (corpus, ",3", ",5")):
        run_study(tmp_path / "study", study, FakeLauncher())
        refuse_to_replace(folders_of(tmp_path / "study", study), tmp_path)
        path.write_text(path.read_text().replace(old, new))
        with pytest.raises(UserError, match="would delete 6 runs made with other settings"):
            refuse_to_replace(folders_of(tmp_path / "study", study), tmp_path)


def test_a_fit_resumes_from_its_last_checkpoint(tmp_path, config):
    study = study_of(config, recipes=(Recipe("one", [str(config)]),), prepare=(), seeds=(0,))
    with pytest.raises(Killed):
        run_study(tmp_path, study, FakeLauncher(killed_at=1))
    last = tmp_path / "runs/one/seed_0/fit/finetune-last.ckpt"
    last.touch()
    launcher = FakeLauncher()
    run_study(tmp_path, study, launcher)
    assert launcher.ran[0][-2:] == ["--ckpt_path", str(last)]
    assert (tmp_path / "runs/one/seed_0/fit/half").exists()


@pytest.mark.parametrize("content", ["[]", '{"inp'])
@pytest.mark.parametrize(("name", "end", "ran"), [("done", "done", 0), ("fit", "done", 1), ("inputs", "failed", 0)])
def test_a_damaged_record_is_of_one_run_alone_whose_model_stays(tmp_path, config, name, end, ran, content):
    run_study(tmp_path, study_of(config), FakeLauncher())
    run, launcher = tmp_path / "runs/one/seed_1", FakeLauncher()
    (run / "done.json").unlink()
    (run / "fit/finetune.ckpt").touch()
    (run / f"{name}.json").write_text(content)
    refuse_to_replace(folders_of(tmp_path, study_of(config)), tmp_path)
    ends = statuses(run_study(tmp_path, study_of(config), launcher))
    assert (ends.pop("runs/one/seed_1"), len(launcher.ran), {*ends.values()}) == (end, ran, {"kept"})
    assert (run / "fit/finetune.ckpt").exists()


def test_a_damaged_measure_of_a_process_is_none(tmp_path):
    launcher, process = Launcher(1, preloaded=()), Mock(exitcode=0)
    process.start = lambda: (tmp_path / "process.json").write_text('{"seconds": 1')
    launcher._context = Mock(Process=Mock(return_value=process))
    assert launcher.run(["synth"], tmp_path / "log.txt") == (0, {})


def test_two_studies_do_not_share_a_folder(tmp_path):
    refused = pytest.raises(UserError, match="another study is running")
    with locked(tmp_path), refused, locked(tmp_path):
        pass


def test_a_command_runs_in_a_process_that_is_measured(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    # importing everything takes longer than this test
    run, log = Launcher(1, preloaded=()).run, tmp_path / "log.txt"
    log.write_text("before\n")
    code, measured = run(["synth", "--out", str(tmp_path / "corpus"), "--speakers", "4", "--utterances", "2"], log)
    assert code == 0
    assert len(list((tmp_path / "corpus" / "Audios").iterdir())) == 8
    assert log.read_text().startswith("before\nSynthesising")
    assert measured["cpu_seconds"] > 0
    code, _ = run(["check", str(tmp_path / "nowhere")], tmp_path / "mistake.txt")
    assert code == 2
    assert (tmp_path / "mistake.txt").read_text().startswith(f"ser: {tmp_path / 'nowhere'}: no such corpus")
    assert capfd.readouterr().out == ""


def endless_study(folder, _held_open):
    launcher = Launcher(1, preloaded=())
    # a command with this process's imports
    launcher._context = multiprocessing.get_context("fork")
    argv = ["synth", "--out", f"{folder}/corpus", "--speakers", "4000", "--utterances", "1000"]
    launcher.run(argv, folder / "log.txt")


def test_a_command_ends_with_the_study_that_was_killed(tmp_path):
    reader, writer = multiprocessing.Pipe(duplex=False)
    study = forkserver().Process(target=endless_study, args=(tmp_path, writer))
    study.start()
    writer.close()
    until = time.monotonic() + 600
    while len(list((tmp_path / "corpus").glob("Audios/*"))) < 4:
        assert time.monotonic() < until
        time.sleep(0.1)
    study.kill()
    # at its end once nobody holds it open
    assert reader.poll(600)
    with pytest.raises(EOFError):
        reader.recv()


class InProcess(FakeLauncher):
    def run(self, argv, log):
        code = ser(*argv)
        log.write_text(f"ended with {code}\n")
        return code, {"seconds": 1.0, "cpu_seconds": 1.0}


@pytest.fixture
def study(monkeypatch, tmp_path, synthetic_corpus):
    """`ser study`, its stages in this process."""
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setattr(runner, "Launcher", lambda *_: InProcess())

    def run(**content):
        path = tmp_path / "study.yaml"
        common = {"corpus": str(synthetic_corpus), "recipes": [RIDGE], "min_utterances": 3}
        path.write_text(yaml.safe_dump(common | content))
        return ser("study", "--config", path, "--out", tmp_path / "out")

    return run


def test_folds_are_tested_and_compared_and_a_failed_recipe_is_named(study, tmp_path, capfd):
    broken = {"name": "broken", "command": "baseline", "arguments": {"corpus": "nowhere"}}
    everyone = RIDGE | {"name": "everyone", "arguments": {"corpus": "{corpus}", "test_splits": ["test1"]}}
    assert study(recipes=[broken, RIDGE, everyone], folds=3, baseline="broken") == 1
    said = capfd.readouterr().out
    assert "failed  broken (ended with 2)" in said
    assert f"its log: {tmp_path}/out/runs/broken/log.txt" in said
    assert set(pd.read_csv(tmp_path / "out" / "study.csv").recipe) == {"ridge", "everyone"}
    assert study(recipes=[RIDGE, everyone], folds=3, baseline="ridge") == 0
    assert capfd.readouterr().out.count("kept") == 1 + 3 + 3
    table = pd.read_csv(tmp_path / "out" / "study.csv")
    # all twelve speakers are tested, though the corpus has three test speakers
    assert set(table.speakers) == {12}
    assert table[table.recipe == "everyone"].average_ccc_difference_low.notna().all()


def test_the_papers_grid_runs_in_miniature(study, synthetic_corpus, tmp_path):
    """Vanilla and PAPT, on test speakers whose other audio PAPT heard; tests of fine-tuning run the others' configs."""
    grid = yaml.safe_load((REPOSITORY / "configs" / "study" / "msp_podcast.yaml").read_text())
    rehearsal = yaml.safe_load((REPOSITORY / "configs" / "tiny" / "study.yaml").read_text())
    for key in ("prepare", "recipes"):
        kept = {"pseudo_labels", "papt", "vanilla_finetuned", "vanilla"}
        grid[key] = [entry for entry in grid[key] if entry["name"] in kept]
    smallest_configs(tmp_path / "smallest")
    changed = {"overlay": f"{tmp_path}/smallest", "jobs": 1, "corpus": str(synthetic_corpus)}
    assert study(**{**grid, **rehearsal, **changed}) == 0
    table = pd.read_csv(tmp_path / "out" / "study.csv")
    assert set(table.recipe) >= {recipe["name"] for recipe in grid["recipes"]}
    assert set(table.split) >= {"test1_evaluation"}
    assert "test1_adaptation" not in set(table.split)
    assert "| papt | fit | " in (tmp_path / "out" / "study.md").read_text()
    (metrics,) = (tmp_path / "out" / "runs" / "papt").rglob("metrics.json")
    assert json.loads(metrics.read_text())["splits"]["test1_evaluation"]["speakers"] == {"adaptation": 3}
