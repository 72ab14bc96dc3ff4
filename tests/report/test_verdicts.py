from __future__ import annotations

import json

import numpy as np
import pytest
from invented_run import edit_json, invent

from ser_personal.evaluation.run_files import read_run
from ser_personal.files import write_json
from ser_personal.report.bootstrap import Bootstrap
from ser_personal.report.verdicts import paired_gain, verdicts


@pytest.mark.parametrize(
    ("gain", "mark", "text"),
    [
        (0.1, "helps", "calibration helps"),
        (0.0, "open", "no effect of calibration is shown"),
        (-0.1, "harms", "calibration harms"),
    ],
)
def test_the_interval_decides(tmp_path, gain, mark, text):
    folder = invent(tmp_path)

    def edit(metrics):
        rows = metrics["splits"]["test1"]["rows"]
        for place, (speaker, ccc) in enumerate(rows["raw"]["attributes"]["arousal"]["per_speaker"].items()):
            noise = 0.01 if place % 2 else -0.01
            rows["sigma"]["attributes"]["arousal"]["per_speaker"][speaker] = ccc + gain + noise

    edit_json(folder / "metrics.json", edit)
    run = read_run(folder)
    found = verdicts(run, run.sets[0], "arousal", Bootstrap(200))
    assert [verdict.than for verdict in found] == ["raw", "random_speakers"]
    assert (found[0].mark, found[0].text) == (mark, text)
    assert found[0].gain.value == pytest.approx(gain, abs=1e-12)


def test_raw_predictions_say_nothing_of_voices(tmp_path):
    folder = invent(tmp_path)
    edit_json(folder / "metrics.json", lambda metrics: metrics["pldc"].update(scale_std=False))
    run = read_run(folder)
    assert run.chosen == "raw"
    assert verdicts(run, run.sets[0], "arousal", Bootstrap(200)) == []


def test_ridge_takes_part_where_it_was_fitted(tmp_path):
    folder = invent(tmp_path)
    rows = json.loads((folder / "metrics.json").read_text())["splits"]["test1"]["rows"]
    write_json(folder / "baseline.json", {"splits": {"test1": {"rows": {"ridge": rows["sigma"]}}}})
    run = read_run(folder)
    last = verdicts(run, run.sets[0], "arousal", Bootstrap(200))[-1]
    assert (last.row, last.than) == ("raw", "ridge")
    own, ridge = (run.sets[0].row(name).scores["arousal"].per_speaker for name in ("raw", "sigma"))
    assert last.gain.value == pytest.approx(np.mean([own[speaker] - ridge[speaker] for speaker in own]))


def test_few_speakers_leave_the_question_open(tmp_path):
    run = read_run(invent(tmp_path, speakers=4))
    gain = paired_gain(run.sets[0], "arousal", "sigma", "raw", Bootstrap(200))
    assert gain.refused == "4 speakers, an interval needs 10"
    assert {verdict.mark for verdict in verdicts(run, run.sets[0], "arousal", Bootstrap(200))} == {"open"}
