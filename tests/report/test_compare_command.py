from __future__ import annotations

import pandas as pd
import pytest
from command_line import ser
from invented_moments import Utterances

from ser_personal.calibration.run_files import write_json
from ser_personal.report.compare import PretrainingScores, RunRecord, StageCost, compare
from ser_personal.report.compare_page import PAPER
from ser_personal.report.formatting import decimal

MADE = Utterances(14)
SCORES = ["overall_ccc", "average_ccc"]


@pytest.fixture
def runs(tmp_path):
    """Two test runs by hand, and what each cost."""
    for name, error in (("vanilla", 0.9), ("papt", 0.5)):
        folder = tmp_path / name / "lightning_logs" / "version_0"
        MADE.write(folder, MADE.row(error), MADE.row(0.4, "own_statistics"))
        cost = {"trained_parameters": 1234, "test_seconds": 90.0, "test_speech_seconds": 720.0, "device": "cpu"}
        write_json(folder / "cost.json", cost)
    return tmp_path


def test_runs_by_hand_are_named_by_their_folders(runs, capsys):
    assert ser("compare", runs, "--baseline", "vanilla", "--resamples", "200") == 0
    page = (runs / "comparison.md").read_text()
    table = pd.read_csv(runs / "comparison.csv")
    assert set(table.recipe) == {"papt", "vanilla"}
    best = table[(table.recipe == "papt") & (table.calibration == "raw")].iloc[0]
    assert best.overall_ccc_low < best.overall_ccc < best.overall_ccc_high
    assert best.overall_ccc_difference_low > 0
    assert "| papt | own_statistics (oracle) | 1 |" in page
    assert "| vanilla | raw | 1 |" in page
    # once at a glance, once among all calibrations
    assert page.count("baseline | baseline") == 2
    raw = best.overall_ccc, best.average_ccc
    own = table[(table.recipe == "papt") & (table.calibration == "own_statistics")].iloc[0]
    cells = " | ".join(f"{decimal(overall)} / {decimal(average)}" for overall, average in (raw, own[SCORES]))
    assert "| O-CCC / A-CCC | raw | own_statistics (oracle) |" in page
    assert f"| papt | {cells} |" in page
    assert "| papt | test | 1,234 | 90 s | - | 12 min | - | - |" in page
    assert "the paper" not in page.lower()
    # nothing was trained that could be put on the axis of costs
    assert not (runs / "comparison.png").exists()
    assert "14 speakers, A-CCC over 7" in capsys.readouterr().out


def test_several_folders_and_another_place(runs, tmp_path):
    out = tmp_path / "elsewhere"
    assert ser("compare", runs / "papt", runs / "vanilla", "--out", out, "--name", "both", "--paper") == 0
    page = (out / "both.md").read_text()
    assert "| PAPT-FT, sigma | .732 | .541 |" in page
    # the invented runs predict arousal alone
    assert ".663" not in page
    assert len(pd.read_csv(out / "both.csv")) == 4 + len(PAPER)


def record(study, name, folder, kind, stages, needs=(), results=None, pretraining=None):
    (study / folder).mkdir(parents=True, exist_ok=True)
    made = RunRecord(name, kind, "hash", 0, None, None, results, needs, tuple(stages), pretraining=pretraining)
    made.write(study / folder)


def test_a_study_s_costs_hold_what_its_recipes_share(tmp_path):
    papt = StageCost("fit", 100.0, 90.0, 2**30, speech_seconds=7200.0, flops=3.2e13, trained_parameters=99)
    record(tmp_path, "papt", "prepare/papt/seed_0", "preparation", [papt])
    fits = {"vanilla": StageCost("fit", 40.0), "tuned": StageCost("fit", 60.0)}
    for name, fit in fits.items():
        needs = ("prepare/papt/seed_0",) if name == "tuned" else ()
        MADE.write(tmp_path / "runs" / name / "test", MADE.row(0.5 if needs else 0.9))
        record(tmp_path, name, f"runs/{name}", "recipe", [fit, StageCost("test", 5.0)], needs, "test")
    compare([str(tmp_path)], name="study", resamples=200)
    table = pd.read_csv(tmp_path / "study.csv").set_index("recipe")
    assert table.training_seconds.to_dict() == {"vanilla": 40.0, "tuned": 160.0}
    page = (tmp_path / "study.md").read_text()
    # what one step doesn't know of its processor's time, the whole doesn't
    assert "| tuned | 2.67 min | - | 32 T |" in page
    assert "| vanilla | 40 s | - | - |" in page
    # nothing was calibrated, so the recipes stand there once
    assert page.count("| tuned | 1 | ") == 1
    assert "| tuned | papt (shared) | 99 | 100 s | 90 s | 2 h | 32 T | 1.00 GiB |" in page
    assert (tmp_path / "study.png").read_bytes().startswith(b"\x89PNG")


def test_what_is_no_run_is_refused_in_a_line(tmp_path, capsys, runs):
    assert ser("compare", tmp_path / "vanilla" / "nothing") == 2
    assert "holds no test run with speaker_moments.csv. Give folders of `ser test" in capsys.readouterr().err
    assert ser("compare", runs, "--baseline", "tapt") == 2
    assert "--baseline: no recipe tapt to compare with. Choose one of" in capsys.readouterr().err
    path = runs / "papt" / "lightning_logs" / "version_0" / "speaker_moments.csv"
    path.write_text("split,row\n")
    assert ser("compare", runs) == 2
    assert "no column is_oracle, draw" in capsys.readouterr().err
    (runs / "papt" / "done.json").write_text("{}")
    assert ser("compare", runs) == 2
    assert "isn't the record of a run" in capsys.readouterr().err
    assert ser("compare", runs, "--resamples", "5") == 2
    assert "5 is too few for an interval" in capsys.readouterr().err


def test_pre_trainings_are_averaged_over_their_runs(tmp_path, capsys):
    scores = {
        "papt/seed_0": PretrainingScores(2.5, 0.25, 3.0, 0.125),
        "papt/seed_1": PretrainingScores(3.5, 0.5, 4.0, 0.375),
        "tapt": PretrainingScores(3.25, 0.25),
        "labels": None,
    }
    for folder, of_step in scores.items():
        record(tmp_path, folder.split("/")[0], f"prepare/{folder}", "preparation", [], pretraining=of_step)
    for number, name in enumerate(("papt", "tapt", "again")):
        needs = tuple(f"prepare/{folder}" for folder in scores if folder.startswith(("labels", name[:4])))
        MADE.write(tmp_path / "runs" / name / "test", MADE.row(0.5 + number))
        record(tmp_path, name, f"runs/{name}", "recipe", [], needs, "test")
    compare([str(tmp_path)], name="study", resamples=200)
    page = (tmp_path / "study.md").read_text()
    assert "| papt | 2 | 3.000 | .375 | 3.500 | .250 |" in page
    assert "| tapt | 1 | 3.250 | .250 | - | - |" in page
    assert page.count("## Pre-training") == 1
    table = pd.read_csv(tmp_path / "study_pretraining.csv").set_index("step")
    assert table.runs.to_dict() == {"papt": 2, "tapt": 1}
    assert table.val_loss_unseen_speakers.isna().to_dict() == {"papt": False, "tapt": True}
    assert "study_pretraining.csv" in capsys.readouterr().out.replace("\n", "")


def test_scores_are_of_pre_trainings_alone(tmp_path):
    assert PretrainingScores.read(tmp_path) is None
    write_json(tmp_path / "finetune.scores.json", {"val_ccc": 0.5, "val_loss": 0.5})
    assert PretrainingScores.read(tmp_path) is None
    write_json(tmp_path / "papt.scores.json", {"val_loss": 2.0, "val_accuracy": 0.5, "val_codebook_usage": 1.0})
    assert PretrainingScores.read(tmp_path) == PretrainingScores(2.0, 0.5)
    write_json(tmp_path / "papt.scores.json", {"val_loss": None, "val_accuracy": 0.5, "val_codebook_usage": 1.0})
    assert PretrainingScores.read(tmp_path) is None
