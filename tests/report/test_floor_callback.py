from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import soundfile
from sklearn.linear_model import RidgeCV
from sklearn.preprocessing import StandardScaler
from tiny_models import emotion_data, finetuning, trainer

from ser_personal.encoder.front_end import mfcc_functionals
from ser_personal.report.baseline import PENALTIES, RidgeFloorCallback
from ser_personal.scores import score


def features_and_labels(utterances):
    features = [mfcc_functionals(soundfile.read(utterance.path, dtype="float32")[0]) for utterance in utterances]
    return np.stack(features), np.array([[u.labels["arousal"], u.labels["valence"]] for u in utterances])


def test_floor_is_a_ridge_regression_of_the_training_set(synthetic_corpus, finetuned_checkpoint, tmp_path, capsys):
    data = emotion_data(synthetic_corpus)
    running = trainer(tmp_path, callbacks=[RidgeFloorCallback()])
    running.test(finetuning(), datamodule=data, ckpt_path=finetuned_checkpoint, verbose=False)
    train, test = data.corpus.splits.train, data.corpus.splits.test["test1"]
    (x, y), (unseen, labels) = features_and_labels(train), features_and_labels(test)
    scaler = StandardScaler().fit(x)
    predictions = np.column_stack(
        [RidgeCV(PENALTIES).fit(scaler.transform(x), column).predict(scaler.transform(unseen)) for column in y.T]
    )
    speakers = [utterance.speaker_id for utterance in test]
    expected = score(predictions, labels, speakers, ("arousal", "valence"), min_utterances=3)
    written = json.loads((tmp_path / "floor.json").read_text())["splits"]["test1"]["rows"]["ridge"]
    assert written["is_oracle"] is False
    for attribute, scores in expected.items():
        reached = written["attributes"][attribute]
        assert reached["overall_ccc"] == pytest.approx(scores.overall_ccc, abs=1e-3)
        assert reached["average_ccc"] == pytest.approx(scores.average_ccc, abs=1e-3)
        assert reached["speakers"] == 3
    assert "ridge regression on MFCC functionals" in capsys.readouterr().out


class OtherRank:
    """A trainer of the second process: nothing but what every process has to take part in."""

    is_global_zero = False
    default_root_dir = "."
    asked = 0

    @property
    def log_dir(self):
        self.asked += 1


def test_other_processes_answer_the_first_ones_question_for_the_folder():
    running = OtherRank()
    RidgeFloorCallback().on_test_end(running, finetuning())
    assert running.asked == 1


def test_attributes_without_training_labels_have_no_floor(relabelled, finetuned_checkpoint, tmp_path, capsys):
    def hide(row, columns):
        if row["Split_Set"] == "Train":
            row.update(dict.fromkeys(columns, ""))

    def floor(*columns):
        data = emotion_data(relabelled(lambda row: hide(row, columns)))
        running = trainer(tmp_path, callbacks=[RidgeFloorCallback()])
        running.test(finetuning(), datamodule=data, ckpt_path=finetuned_checkpoint, verbose=False)

    floor("EmoVal")
    written = json.loads((tmp_path / "floor.json").read_text())["splits"]["test1"]["rows"]["ridge"]
    assert set(written["attributes"]) == {"arousal"}
    shutil.rmtree(tmp_path / "relabelled")
    (tmp_path / "floor.json").unlink()
    floor("EmoVal", "EmoAct", "EmoDom")
    assert not (tmp_path / "floor.json").exists()
