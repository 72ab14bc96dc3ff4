from __future__ import annotations

import json
import re

import pandas as pd
import pytest
from invented_run import edit_json, invent

from ser_personal.calibration.run_files import read_run, read_vectors, write_speakers
from ser_personal.errors import UserError


@pytest.fixture
def folder(tmp_path):
    return invent(tmp_path, speakers=3, utterances=10, attributes=("arousal", "valence"))


def edit_table(folder, edit):
    path = folder / "predictions.csv"
    table = pd.read_csv(path)
    edit(table).to_csv(path, index=False)


def test_what_a_run_holds(folder):
    run = read_run(folder)
    (test,) = run.sets
    assert (run.attributes, run.scale, run.chosen, run.fusion) == (("arousal", "valence"), (1, 7), "sigma", "last")
    assert (test.name, len(test.utterances), list(test.speakers)) == ("test1", 30, ["s00", "s01", "s02"])
    assert test.speakers["s01"].gender == "Male"
    assert test.row("raw").scores["valence"].speakers == 3
    assert test.utterances["emotion"].tolist()[:2] == [None, "anger"]
    assert run.training.speaker_ids == ("t1", "t2", "t3", "t4")


def test_speakers_named_by_numbers_stay_names(folder):
    edit_table(folder, lambda table: table.assign(speaker=table["speaker"].str[1:]))
    assert read_run(folder).sets[0].speaker_ids[0] == "00"


def test_unknown_speakers_are_none(folder):
    edit_table(folder, lambda table: table.assign(speaker=table["speaker"].where(table.index > 0)))
    assert read_run(folder).sets[0].speaker_ids[:2] == [None, "s00"]


@pytest.mark.parametrize(
    "name", ["predictions.csv", "metrics.json", "speakers.json", "speakers.safetensors", "cost.json"]
)
def test_a_folder_that_is_no_test_run(folder, name):
    (folder / name).unlink()
    with pytest.raises(UserError, match=rf"isn't a test run, it has no {re.escape(name)}.*--config configs/pldc.yaml"):
        read_run(folder)


def test_a_missing_column(folder):
    edit_table(folder, lambda table: table.drop(columns=["valence_raw", "gender"]))
    with pytest.raises(UserError, match=r"predictions\.csv: no column gender, valence_raw"):
        read_run(folder)


def test_without_labels(folder):
    edit_table(folder, lambda table: table.assign(valence_label=float("nan")))
    with pytest.raises(UserError, match="no test set has labels of arousal and valence"):
        read_run(folder)


def test_a_test_set_without_labels_is_left_out_by_name(folder):
    def hide(table):
        return pd.concat([table, table.assign(split="test3", arousal_label=float("nan"))])

    edit_table(folder, hide)
    edit_json(folder / "metrics.json", lambda metrics: metrics["splits"].update(test3=metrics["splits"]["test1"]))
    record = json.loads((folder / "speakers.json").read_text())
    record["splits"]["test3"] = record["splits"]["test1"]
    vectors = read_vectors(folder / "speakers.safetensors")
    write_speakers(folder, record, vectors | {"test3": vectors["test1"]})
    run = read_run(folder)
    assert [test.name for test in run.sets] == ["test1"]
    assert run.unlabelled == ("test3",)


def test_broken_json(folder):
    (folder / "metrics.json").write_text("{")
    with pytest.raises(UserError, match=r"metrics\.json: broken JSON"):
        read_run(folder)
