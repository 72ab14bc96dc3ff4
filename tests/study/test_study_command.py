"""`ser study` as a user runs it, its stages in this process: what forks and what starts anew is tested by itself."""

from __future__ import annotations

import fcntl
import json

import pandas as pd
import pytest
import yaml
from command_line import REPOSITORY, configs, ser

from ser_personal.study import runner


class HereRunner:
    """Runs stages in this process."""

    def run(self, words, log):
        code = ser(*words)
        log.write_text(f"ended with {code}\n")
        return code, {"seconds": 1.0, "cpu_seconds": 1.0, "peak_memory": 1}

    def stop(self):
        pass


@pytest.fixture
def study(monkeypatch, tmp_path, synthetic_corpus):
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setattr(runner, "_runner", lambda *_: HereRunner())

    def run(*arguments, **content):
        tuned = configs("finetune.yaml", "tiny/finetune.yaml")[1::2]
        flags = {"trainer.max_epochs": 1, "trainer.accelerator": "cpu", "trainer.limit_train_batches": 1}
        whole = {
            "corpus": str(synthetic_corpus),
            "recipes": [
                {"name": "ridge", "command": "baseline", "arguments": {"corpus": "{corpus}"}},
                {"name": "vanilla", "configs": tuned, "arguments": flags | {"data.max_batch": 16}},
            ],
            "min_utterances": 3,
        } | content
        path = tmp_path / "study.yaml"
        path.write_text(yaml.safe_dump(whole))
        return ser("study", "--config", path, "--out", tmp_path / "out", *arguments)

    return run


def test_folds_are_trained_tested_and_joined(study, tmp_path, capfd):
    assert study(folds=3, baseline="ridge") == 0
    table = pd.read_csv(tmp_path / "out" / "study.csv")
    # all twelve speakers are tested, though the corpus has three test speakers
    assert set(table.speakers) == {12}
    assert set(table.recipe) == {"ridge", "vanilla"}
    assert table[table.calibration == "raw"].average_ccc_difference_low.notna().all()
    joined = pd.read_csv(tmp_path / "out" / "joined" / "vanilla-seed_0.csv", dtype={"speaker": str})
    assert len(joined) == joined.utterance.nunique() == 72
    assert (joined.groupby("speaker").fold.nunique() == 1).all()
    record = json.loads((tmp_path / "out/runs/vanilla/seed_0/fold_2/done.json").read_text())
    assert [stage["command"] for stage in record["stages"]] == ["fit", "test"]
    assert all(stage["flops"] > 0 and stage["speech_seconds"] > 0 for stage in record["stages"])
    assert (tmp_path / "out" / "study.png").is_file()
    assert "| vanilla | fit | " in (tmp_path / "out" / "study.md").read_text()
    capfd.readouterr()
    assert study(folds=3, baseline="ridge") == 0
    said = capfd.readouterr().out
    assert said.count("kept") == 1 + 3 + 3


def test_a_failed_recipe_is_named_and_the_others_are_compared(study, tmp_path, capfd):
    broken = {"name": "broken", "command": "baseline", "arguments": {"corpus": "nowhere"}}
    ridge = {"name": "ridge", "command": "baseline", "arguments": {"corpus": "{corpus}"}}
    assert study(recipes=[broken, ridge], baseline="broken") == 1
    said = capfd.readouterr().out
    assert "failed  broken: ended with 2" in said
    assert f"its log: {tmp_path}/out/runs/broken/log.txt" in said
    assert set(pd.read_csv(tmp_path / "out" / "study.csv").recipe) == {"ridge"}


def test_two_studies_do_not_share_a_folder(study, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    with (tmp_path / "out" / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert study() == 2
    assert "another study, or a run that one left, is at work in this folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"baseline": "papt"}, "baseline papt is no recipe of this study"),
        ({"recipes": [{"name": "a"}, {"name": "a"}]}, "2 times recipe a"),
        ({"recipes": [{"name": "a", "arguments": {"x": "{papt}"}}]}, "refers to {papt}, and no preparation step"),
        ({"recipes": [{"nam": "a"}]}, "'nam' is not accepted"),
        ({"seeds": "many"}, "seeds"),
    ],
)
def test_mistakes_are_one_line(study, capsys, content, said):
    assert study(**content) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
