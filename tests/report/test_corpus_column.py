from __future__ import annotations

import pandas as pd
import pytest

from ser_personal.errors import UserError
from ser_personal.report.audit import column_of

UTTERANCES = pd.DataFrame(
    {"utterance": ["a/1", "a/2", "b/1"], "speaker": ["a", "a", None], "emotion": ["anger", None, "Unknown"]}
)


@pytest.mark.parametrize(
    "table",
    [
        "id,path,accent\na/1,x.wav,north\nb/1,y.wav,south\nc,z.wav,east\n",
        "path,accent\na/1.wav,north\nb/1.flac,south\n",
        "utterance,accent\na/1,north\na/2,\nb/1,south\n",
    ],
)
def test_a_table_of_utterances(tmp_path, table):
    path = tmp_path / "corpus.csv"
    path.write_text(table)
    assert column_of(UTTERANCES, "accent", str(path)) == ["north", None, "south"]


def test_a_label_file_of_msp_podcast(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_text("FileName,SpkrID,Show\nu1.wav,9,news\n")
    utterances = pd.DataFrame({"utterance": ["u1", "u2"], "speaker": ["9", "9"]})
    assert column_of(utterances, "Show", str(path)) == ["news", None]


def test_a_table_of_speakers(tmp_path):
    path = tmp_path / "speakers.csv"
    path.write_text("SpkrID,age\na,33\nc,50\n")
    assert column_of(UTTERANCES, "age", str(path)) == ["33", "33", None]


def test_a_column_of_the_predictions():
    assert column_of(UTTERANCES, "emotion", None) == ["anger", None, None]


def test_mistakes(tmp_path):
    with pytest.raises(UserError, match=r"--by: no column age in predictions.csv. Give .*--table.*utterance, speaker"):
        column_of(UTTERANCES, "age", None)
    path = tmp_path / "table.csv"
    path.write_text("speaker,age\nz,3\n")
    with pytest.raises(UserError, match="names none of the run's utterances or speakers"):
        column_of(UTTERANCES, "age", str(path))
    with pytest.raises(UserError, match=r"table.csv: no column accent \(found: speaker, age\)"):
        column_of(UTTERANCES, "accent", str(path))
    path.write_text("name,age\nz,3\n")
    with pytest.raises(UserError, match="neither utterances nor speakers"):
        column_of(UTTERANCES, "age", str(path))
    with pytest.raises(UserError, match="no such file"):
        column_of(UTTERANCES, "age", str(tmp_path / "none.csv"))
