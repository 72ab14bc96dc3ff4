import json
import shutil

import numpy as np
import pandas as pd
import pytest
import soundfile
from command_line import ser
from sklearn.linear_model import RidgeCV
from sklearn.preprocessing import StandardScaler
from tiny_models import emotion_data, finetuning, newest_run, trainer

from ser_personal.encoder.raw import mfcc_functionals
from ser_personal.report.baseline import PENALTIES, RidgeBaselineCallback, ridge_baseline
from ser_personal.scores import score


def test_missing_labels_are_left_out_attribute_by_attribute():
    rng = np.random.default_rng(1)
    features = rng.normal(size=(300, 6)).astype(np.float32)
    labels = 4 + features @ rng.normal(size=(6, 3))
    gaps = labels.copy()
    gaps[:50, 1], gaps[:, 2] = np.nan, np.nan
    predictions = ridge_baseline(features, gaps, features)
    assert predictions[:, [1]] == pytest.approx(ridge_baseline(features[50:], labels[50:, [1]], features))
    assert predictions[:, [0]] == pytest.approx(labels[:, [0]], abs=0.02)
    assert np.isnan(predictions).all(0).tolist() == [False, False, True]


def features_and_labels(utterances):
    features = [mfcc_functionals(soundfile.read(utterance.path, dtype="float32")[0]) for utterance in utterances]
    return np.stack(features), np.array([[u.labels["arousal"], u.labels["valence"]] for u in utterances])


def with_callback(data, checkpoint, folder):
    """Baseline.json of a test with the callback."""
    running = trainer(folder, callbacks=[RidgeBaselineCallback()])
    running.test(finetuning(), datamodule=data, ckpt_path=checkpoint, verbose=False)
    return json.loads((newest_run(folder) / "baseline.json").read_text())


def test_callback_and_command_are_a_ridge_regression(synthetic_corpus, finetuned_checkpoint, tmp_path, capsys):
    data = emotion_data(synthetic_corpus)
    written = with_callback(data, finetuned_checkpoint, tmp_path / "test")
    assert "ridge regression on MFCC functionals" in capsys.readouterr().out
    train, test = data.corpus.splits.train, data.corpus.splits.test["test1"]
    (x, y), (unseen, labels) = features_and_labels(train), features_and_labels(test)
    scaler = StandardScaler().fit(x)
    x, unseen = scaler.transform(x), scaler.transform(unseen)
    predictions = np.column_stack([RidgeCV(PENALTIES).fit(x, column).predict(unseen) for column in y.T])
    speakers = [utterance.speaker_id for utterance in test]
    row = written["splits"]["test1"]["rows"]["ridge"]
    for attribute, scores in score(predictions, labels, speakers, ("arousal", "valence"), min_utterances=3).items():
        found = row["attributes"][attribute]
        assert found["overall_ccc"] == pytest.approx(scores.overall_ccc, abs=1e-3)
        assert found["average_ccc"] == pytest.approx(scores.average_ccc, abs=1e-3)
    arguments = ["--attributes", "[arousal,valence]", "--min-utterances", "3"]
    assert ser("baseline", synthetic_corpus, "--out", tmp_path / "command", *arguments) == 0
    assert json.loads((tmp_path / "command" / "baseline.json").read_text()) == written
    moments = pd.read_csv(tmp_path / "command" / "speaker_moments.csv")
    assert set(zip(moments.row, moments.attribute, strict=True)) == {("ridge", "arousal"), ("ridge", "valence")}


def test_attributes_without_training_labels_have_no_baseline(relabelled, finetuned_checkpoint, tmp_path, mistake):
    def hidden(*columns):
        shutil.rmtree(tmp_path / "relabelled", ignore_errors=True)
        return relabelled(lambda row: row.update(dict.fromkeys(columns, "")) if row["Split_Set"] == "Train" else None)

    written = with_callback(emotion_data(hidden("EmoVal")), finetuned_checkpoint, tmp_path / "one")
    assert set(written["splits"]["test1"]["rows"]["ridge"]["attributes"]) == {"arousal"}
    corpus = hidden("EmoVal", "EmoAct", "EmoDom")
    line = mistake("baseline", corpus, "--out", tmp_path / "command", "--attributes", "[arousal]")
    assert "no training utterance has a label of arousal" in line
