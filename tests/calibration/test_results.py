from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import rich

from ser_personal.calibration.collect import CollectedSet
from ser_personal.calibration.run_files import (
    LEGEND,
    cells,
    predictions_frame,
    rows_as_json,
    score_table,
    show,
    write_json,
)
from ser_personal.calibration.table import CalibrationRow, PredictedSet
from ser_personal.scores import AttributeScores
from ser_personal.types import Utterance

NAN = float("nan")


def row(name="sigma", average=0.25, *, is_oracle=False):
    scores = AttributeScores(0.5, average, 0.125, 3, 1, 30, {"a": 0.5, "b": NAN})
    return CalibrationRow(name, {"arousal": scores, "valence": scores}, np.zeros((1, 30, 2)), is_oracle)


def test_predictions_csv_has_a_row_an_utterance(tmp_path):
    utterances = [Utterance(f"u{i}", Path(), "test1", speaker_id=None if i == 2 else f"s{i}") for i in range(3)]
    utterances.append(Utterance("u3", Path(), "test1", "s3", gender="Female", seconds=2.5, emotion="anger"))
    predicted = PredictedSet(
        predictions=np.array([[1.0, 2.0], [3.0, 4.0]]),
        speaker_ids=(None, "s3"),
        pooled=np.zeros((2, 5)),
        labels=np.array([[NAN, 6.0], [7.0, 5.0]]),
    )
    collected = CollectedSet(np.array([2, 3]), predicted)
    frame = predictions_frame(collected, predicted.predictions + 0.1, ("arousal", "valence"), utterances)
    frame.to_csv(tmp_path / "predictions.csv", index=False)
    assert (tmp_path / "predictions.csv").read_text().splitlines() == [
        "utterance,speaker,split,arousal_label,arousal_raw,arousal_calibrated,"
        "valence_label,valence_raw,valence_calibrated,gender,seconds,emotion",
        "u2,,test1,,1.0,1.1,6.0,2.0,2.1,,,",
        "u3,s3,test1,7.0,3.0,3.1,5.0,4.0,4.1,Female,2.5,anger",
    ]
    assert pd.read_csv(tmp_path / "predictions.csv")["speaker"].isna().tolist() == [True, False]


def test_json_marks_the_oracle_and_has_no_nan(tmp_path):
    content = rows_as_json([row(average=NAN), row("own_statistics", is_oracle=True)])
    write_json(tmp_path / "metrics.json", content)
    read = json.loads((tmp_path / "metrics.json").read_text(), parse_constant=pytest.fail)
    assert {name: of["is_oracle"] for name, of in read.items()} == {"sigma": False, "own_statistics": True}
    assert read["sigma"]["attributes"]["arousal"] == {
        "overall_ccc": 0.5,
        "average_ccc": None,
        "average_ccc_std": 0.125,
        "speakers": 3,
        "undefined_speakers": 1,
        "utterances": 30,
        "per_speaker": {"a": 0.5, "b": None},
    }


def test_json_is_the_whole_file_or_the_one_before(tmp_path):
    path = tmp_path / "metrics.json"
    write_json(path, {"before": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"after": NAN})
    assert json.loads(path.read_text()) == {"before": 1}


def test_cells_show_three_digits_and_a_dash_where_undefined():
    assert cells(row().scores.values()) == [".500", ".250 (.125)"] * 2
    assert cells(row(average=NAN).scores.values()) == [".500", "- (.125)"] * 2


def test_table_on_the_screen_says_what_is_no_result(capsys):
    show("test1: 30 utterances", [row("raw"), row("own_statistics", is_oracle=True)], LEGEND)
    printed = " ".join(capsys.readouterr().out.split())
    assert "test1: 30 utterances" in printed
    assert "own_statistics .500 .250 (.125) .500 .250 (.125)" in printed
    assert "A-CCC over 3 speakers" in printed
    assert "own_statistics reads the test labels: an oracle, never a result." in printed


def test_names_are_no_markup(capsys):
    rich.print(score_table("[red]test[/red]", ["[/odd]"]))
    shown = capsys.readouterr().out
    assert "[red]test[/red]" in shown
    assert "[/odd]" in shown
