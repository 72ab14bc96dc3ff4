from __future__ import annotations

import json

import pandas as pd
import pytest
from command_line import ser
from tiny_models import emotion_data, finetuning, trainer

from ser_personal.report.baseline import RidgeFloorCallback


def test_floor_is_that_of_a_test_with_the_callback(synthetic_corpus, finetuned_checkpoint, tmp_path):
    running = trainer(tmp_path / "test", callbacks=[RidgeFloorCallback()])
    running.test(finetuning(), datamodule=emotion_data(synthetic_corpus), ckpt_path=finetuned_checkpoint, verbose=False)
    asked = ["--attributes", "[arousal,valence]", "--min-utterances", "3"]
    assert ser("floor", synthetic_corpus, "--out", tmp_path / "floor", *asked) == 0
    written, expected = (json.loads((tmp_path / name / "floor.json").read_text()) for name in ("floor", "test"))
    assert written == expected
    moments = pd.read_csv(tmp_path / "floor" / "speaker_moments.csv")
    assert (moments.row == "ridge").all()
    assert len(moments) == 2 * 3
    own = written["splits"]["test1"]["rows"]["ridge"]["attributes"]["arousal"]["per_speaker"]
    of_arousal = moments[moments.attribute == "arousal"].set_index("speaker").ccc
    assert {str(speaker): ccc for speaker, ccc in of_arousal.items()} == pytest.approx(own)


def test_a_corpus_without_labels_has_no_floor(relabelled, tmp_path, capsys):
    corpus = relabelled(lambda row: row.update(EmoAct="") if row["Split_Set"] == "Train" else None)
    assert ser("floor", corpus, "--out", tmp_path / "floor", "--attributes", "[arousal]") == 2
    assert "no training utterance has a label of arousal" in capsys.readouterr().err
    assert not (tmp_path / "floor").exists()
