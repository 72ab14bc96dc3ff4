from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from invented_moments import Utterances

from ser_personal.report.bootstrap import Bootstrap
from ser_personal.report.compare import GapPoint, RunRecord, compare, find_gaps, join_runs

MADE = Utterances(14)
ERRORS = {(20, "dependent"): 0.6, (20, "independent"): 0.9, (100, "dependent"): 0.5, (100, "independent"): 0.5}


def run_of(number, side, error, seed=0):
    point = GapPoint("vanilla", number, side)
    rows = MADE.row(error, seed=seed + number), MADE.row(0.1, "sigma")
    return replace(MADE.run(point.name, *rows, seed=seed), point=point)


@pytest.fixture
def runs():
    return [run_of(*place, error, seed) for place, error in ERRORS.items() for seed in (0, 1)]


def test_the_gap_is_the_difference_of_raw_scores(runs):
    (found,) = find_gaps(join_runs(runs), runs, Bootstrap(200))
    assert [row.training_speakers for row in found.rows] == [20, 100]
    assert (found.speakers, found.counted) == (14, 7)
    for row in found.rows:
        assert row.seeds == 2
        for metric in ("overall", "average"):
            expected = {}
            for side in ("dependent", "independent"):
                scores = [
                    MADE.row(ERRORS[row.training_speakers, side], seed=seed + row.training_speakers).scores["arousal"]
                    for seed in (0, 1)
                ]
                expected[side] = np.mean([getattr(each, f"{metric}_ccc") for each in scores])
            contrast = getattr(row, f"{metric}_ccc")
            assert contrast.dependent.value == pytest.approx(expected["dependent"])
            assert contrast.independent.value == pytest.approx(expected["independent"])
            assert contrast.gap.value == pytest.approx(expected["dependent"] - expected["independent"])
    small, large = found.rows
    assert small.overall_ccc.gap.low > 0
    # the same predictions on both sides, whatever the draw
    assert (large.overall_ccc.gap.low, large.overall_ccc.gap.high) == (0, 0)


def test_a_point_without_its_other_side_is_left_out(runs):
    kept = [run for run in runs if run.point != GapPoint("vanilla", 20, "independent")]
    (found,) = find_gaps(join_runs(kept), kept, Bootstrap(200))
    assert [row.training_speakers for row in found.rows] == [100]
    assert find_gaps(join_runs(kept[:2]), kept[:2], Bootstrap(200)) == []


def test_compare_tells_of_the_gap_of_a_study(tmp_path, capsys):
    for (number, side), error in ERRORS.items():
        folder = tmp_path / "runs" / "vanilla" / f"{number}_{side}"
        MADE.write(folder / "test", MADE.row(error))
        record = RunRecord("vanilla", "recipe", "hash", 0, None, None, "test", (), (), number, side)
        record.write(folder)
    compare([str(tmp_path)], resamples=200)
    page = (tmp_path / "comparison.md").read_text()
    assert "| vanilla, 20 speakers, dependent | 1 | " in page
    assert "## Personalisation gap" in page
    assert "| vanilla | 100 | 1 |" in page
    table = pd.read_csv(tmp_path / "comparison_gap.csv")
    assert list(table.training_speakers) == [20, 100]
    assert (table.overall_ccc_gap - table.overall_ccc_dependent + table.overall_ccc_independent).abs().max() < 1e-12
    assert (tmp_path / "comparison_gap.png").is_file()
    assert "comparison_gap.csv" in capsys.readouterr().out.replace("\n", "")
