import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from garbage import refused
from invented_run import edit_json, invent

from ser_personal.calibration.table import MOMENTS, CalibrationRow, PredictedSet, print_scores, speaker_moments
from ser_personal.evaluation import run_files
from ser_personal.evaluation.prediction_collector import CollectedSet, about_speakers, conditions_of
from ser_personal.report.report import report
from ser_personal.scores import AttributeScores, concordance, mean_scores, score
from ser_personal.types import Utterance, utterance_hashes

NAN = float("nan")
SPEAKERS = ["a", "a", "b", None, "b", "a", "c"]
NAMES = {"s00": "00", "s01": "NA", "s02": "None", "s03": "null", "s04": "nan", "s05": "N/A"}


def test_predictions_csv_has_a_row_an_utterance(tmp_path):
    unknown = Utterance("u2", Path(), "test1", labels={"arousal": NAN, "valence": 4.52})
    labels = {"arousal": 7.0, "valence": 5.0}
    named = Utterance("u3", Path(), "test1", "s3", gender="Female", seconds=2.5, emotion="anger", labels=labels)
    predictions, labels = [[1.0, 2.0], [3.0, np.float32(4.1)]], [[NAN, np.float32(4.52)], [7.0, 5.0]]
    predicted = PredictedSet(np.array(predictions), (None, "s3"), np.zeros((2, 5)), np.array(labels))
    collected = CollectedSet((unknown, named), predicted)
    model = SimpleNamespace(attributes=("arousal", "valence"), emotions=())
    frame = run_files.predictions_table(collected, model, predicted.predictions + 0.1)
    run_files.write_csv(tmp_path / "predictions.csv", frame)
    assert (tmp_path / "predictions.csv").read_text().splitlines() == [
        "utterance,speaker,split,arousal_label,arousal_raw,arousal_calibrated,"
        "valence_label,valence_raw,valence_calibrated,gender,seconds,emotion",
        "u2,,test1,,1.0,1.1,4.52,2.0,2.1,,,",
        "u3,s3,test1,7.0,3.0,3.1,5.0,4.1,4.2,Female,2.5,anger",
    ]
    assert pd.read_csv(tmp_path / "predictions.csv")["speaker"].isna().tolist() == [True, False]


def test_table_on_the_screen_says_what_is_no_result(capsys):
    scores = AttributeScores(0.5, 0.25, 0.125, 3, 1, 30, {"a": 0.5, "b": NAN})
    names = "raw", "own_statistics"
    rows = [CalibrationRow(name, {"[/odd]": scores}, name != "raw", np.zeros((1, 30, 1))) for name in names]
    print_scores("[red]test1[/red]", rows, 10)
    printed = " ".join(capsys.readouterr().out.split())
    # names are no markup
    assert "[red]test1[/red]" in printed
    assert "[/odd]" in printed
    assert "own_statistics .500 .250 (.125)" in printed
    assert "A-CCC over 3 speakers, each with at least 10 labelled utterances." in printed
    assert "own_statistics reads the test labels: an oracle, never a result." in printed
    assert "posterior" not in printed


def utterance(speaker_id, number):
    return Utterance(f"{speaker_id} {number}", Path(), "test1", speaker_id=speaker_id)


def test_what_training_knew_of_a_speaker_goes_by_the_utterances_that_were_heard():
    for speaker_id, heard, expected in (
        ("labelled", [], "labelled"),
        ("labelled", [0], "transductive"),
        ("labelled, not embedded", [], "labelled"),
        ("adaptation", [7], "adaptation"),
        # one of two tested utterances is enough
        ("adaptation", [1], "transductive"),
        ("stranger", [0, 1], "transductive"),
        # whom TAPT heard, without a table
        ("stranger", [7], "adaptation"),
        ("stranger", [], "unseen"),
        (None, [7], "unseen"),
        # whose labels the model was trained on, as another table's training split: 10 and more
        ("stranger", [17], "labelled"),
        ("stranger", [0, 11], "labelled"),
        (None, [10, 11], "labelled"),
        (None, [17], "unseen"),
    ):
        of_training = [utterance(speaker_id, number % 10) for number in heard]
        labels_known = [each for each, number in zip(of_training, heard, strict=True) if number >= 10]
        audio_known = [each for each in of_training if each not in labels_known]
        known = {"embedded_speakers": ["labelled", "adaptation"], "pretrained_on": utterance_hashes(audio_known)}
        model = SimpleNamespace(personalized=SimpleNamespace(**known), trained_on=utterance_hashes(labels_known))
        data = SimpleNamespace(train_speaker_ids=["labelled", "labelled, not embedded"], utterances=of_training)
        # the same audio under another split's name
        tested = [replace(utterance(speaker_id, number), split="renamed") for number in range(2)]
        assert conditions_of(model, data, tested).tolist() == [expected] * 2, (speaker_id, heard)


def test_speakers_are_counted_once_and_unknown_ones_not_at_all():
    utterances = [utterance(speaker_id, 0) for speaker_id in ["a", "b", "b", "c", "d", "d", None, None]]
    named = np.array(["labelled", "adaptation", "adaptation", *["unseen"] * 5])
    model = SimpleNamespace(personalized=SimpleNamespace(speakers=None))
    counted = {"labelled": 1, "adaptation": 1, "unseen": 2}
    assert about_speakers(model, utterances, named) == {"speakers": counted}


def test_moments_are_of_each_speakers_labelled_utterances_and_come_back_to_every_digit(tmp_path):
    rng = np.random.default_rng(0)
    predictions, labels = rng.normal(4, 1, (2, 7, 2)), rng.normal(4, 1, (7, 2))
    labels[[1, 6], 0] = np.nan
    scores = mean_scores([score(draw, labels, SPEAKERS, ("arousal", "valence")) for draw in predictions])
    table = speaker_moments("test1", [CalibrationRow("random_speakers", scores, False, predictions)], labels, SPEAKERS)
    # c has no label of arousal, the unknown speaker no line
    assert len(table) == 2 * (2 + 3)
    line = table[(table.draw == 1) & (table.attribute == "arousal") & (table.speaker == "a")].iloc[0]
    x, y = predictions[1][[0, 5], 0], labels[[0, 5], 0]
    means = x.mean(), y.mean(), x.var(), y.var(), np.cov(x, y, ddof=0)[0, 1]
    assert tuple(line[list(MOMENTS)]) == pytest.approx(means)
    assert (line.utterances, line.ccc) == (2, concordance(x, y))
    run_files.write_moments(tmp_path, [table, table.assign(split="test2")])
    read = run_files.read_moments(tmp_path / run_files.SPEAKER_MOMENTS)
    pd.testing.assert_frame_equal(read[read.split == "test1"], table, check_dtype=False, rtol=0, atol=0)


@pytest.fixture
def folder(tmp_path):
    return invent(tmp_path, speakers=3, utterances=10, attributes=("arousal", "valence"))


def edit_table(folder, edit):
    table = edit(pd.read_csv(folder / "predictions.csv"))
    table.to_csv(folder / "predictions.csv", index=False)


def test_what_a_run_holds(folder):
    edit_table(folder, lambda table: table.assign(speaker=table["speaker"].where(table.index > 0)))
    run = run_files.read_run(folder)
    (test,) = run.sets
    assert (run.attributes, run.scale, run.chosen, run.fusion) == (("arousal", "valence"), (1, 7), "sigma", "last")
    assert test.utterances["emotion"].tolist()[:2] == [None, "anger"]
    assert run.training.speaker_ids == ("t1", "t2", "t3", "t4")
    assert test.speaker_ids[:2] == [None, "s00"]


def test_names_stay_the_text_that_they_are(tmp_path):
    folder = invent(tmp_path, speakers=6, utterances=12)
    for path in (folder / "predictions.csv", folder / "metrics.json", folder / "speakers.json"):
        path.write_text(re.sub(r"\bs0\d\b", lambda found: NAMES[found[0]], path.read_text()))
    vectors = run_files.read_vectors(folder / "speakers.safetensors")
    renamed = run_files.SpeakerVectors(tuple(NAMES.values()), vectors["test1"].vectors)
    run_files.write_speakers(folder, json.loads((folder / "speakers.json").read_text()), vectors | {"test1": renamed})
    assert list(dict.fromkeys(run_files.read_run(folder).sets[0].speaker_ids)) == list(NAMES.values())
    report(str(folder), resamples=100)
    assert json.loads((folder / "audit.json").read_text())["sets"][0]["harm"]["arousal"]["speakers"] == 6


def test_what_is_no_complete_run(folder):
    edit_table(folder, lambda table: table.assign(valence_label=float("nan")))
    refused("no test set has labels of arousal and valence", run_files.read_run, folder)
    for name in ("speakers.safetensors", "speakers.json", "metrics.json", "predictions.csv"):
        (folder / name).unlink()
        line = f"isn't a test run with PLDC, it has no {name}.*--config configs/pldc.yaml"
        refused(line, run_files.read_run, folder)


def test_a_test_set_without_labels_is_left_out_by_name(folder):
    edit_table(folder, lambda table: pd.concat([table, table.assign(split="test3", arousal_label=NAN)]))
    edit_json(folder / "metrics.json", lambda metrics: metrics["splits"].update(test3=metrics["splits"]["test1"]))
    record = json.loads((folder / "speakers.json").read_text())
    record["splits"]["test3"] = record["splits"]["test1"]
    vectors = run_files.read_vectors(folder / "speakers.safetensors")
    run_files.write_speakers(folder, record, vectors | {"test3": vectors["test1"]})
    run = run_files.read_run(folder)
    assert [test.name for test in run.sets] == ["test1"]
    assert run.unlabelled == ("test3",)
