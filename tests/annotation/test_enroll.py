from dataclasses import replace
from functools import partial
from math import inf, nan

import numpy as np
import pandas as pd
import pytest
import soundfile
from command_line import ser
from garbage import refused

from ser_personal import EmotionRecognizer
from ser_personal.audio import decode
from ser_personal.recognition.profiles import SpeakerProfiles


@pytest.fixture
def enroll(bundle_folder, tmp_path, capsys):
    """Run the command on a table, -> what it says and the profiles' file."""

    def run(speaker, table, *flags, code=0):
        path = tmp_path / "profiles.safetensors"
        if isinstance(table, pd.DataFrame):
            table.to_csv(tmp_path / "table.csv", index=False)
            table = tmp_path / "table.csv"
        options = ["--model", bundle_folder, "--profiles", path, "--device", "cpu", *flags]
        assert ser("enroll", speaker, table, *options) == code
        said = capsys.readouterr()
        return (said.err if code else said.out), path

    return run


@pytest.fixture
def table(recordings):
    """Two speakers' recordings, labelled but for one label."""
    rows = {"path": recordings[:8], "speaker": ["anna", "bela"] * 4, "arousal": [6.0, 2.0] * 4}
    return pd.DataFrame({**rows, "valence": [5.0, 3.0, nan, 3.0, 2.0, 3.0, 4.0, 3.0], "dominance": 9.0})


def test_the_command_enrols_what_python_does(enroll, table, bundle, recognizer, recordings):
    said, path = enroll("anna", table)
    assert said == "anna: 4 new utterances (0 before), labels, as first given: 4 of arousal, 3 of valence\n"
    recognizer.enroll("anna", recordings[:8:2], {"arousal": [6, 6, 6, 6], "valence": [5, nan, 2, 4]})
    expected = recognizer.profiles["anna"].arrays()
    for name, array in SpeakerProfiles(bundle.model, path)["anna"].arrays().items():
        np.testing.assert_allclose(array, expected[name], atol=1e-4)
    enroll("bela", table[["path"]])
    said, _ = enroll("bela", recordings[8])
    assert said == "bela: 1 new utterance (8 before), no labels\n"
    assert SpeakerProfiles(bundle.model, path).ids == ["anna", "bela"]


def test_a_sound_counts_once_however_often_it_is_enrolled_or_annotated(enroll, table, bundle, recordings):
    anna = table[table.speaker == "anna"]
    _, path = enroll("anna", anna[["path"]].iloc[:2])
    said, _ = enroll("anna", pd.concat([anna, anna]))
    assert said == "anna: 2 new utterances (2 before), labels, as first given: 4 of arousal, 3 of valence\n"
    enroll("anna", anna.assign(arousal=1.0, valence=nan))
    enroll("eva", anna.assign(speaker="eva"))
    recognizer = EmotionRecognizer(bundle, profiles=SpeakerProfiles(bundle.model, path), device="cpu")
    counts = recognizer.predict(recordings[0:10:2] * 2, "anna")["calibration_utterances"]
    assert [*counts] == [4, 4, 4, 4, 5, 5, 5, 5, 5, 5]
    again = SpeakerProfiles(bundle.model, path)
    assert (again["anna"].utterances, again["eva"].utterances) == (5, 4)
    np.testing.assert_allclose(again["anna"].labelled.mean, again["eva"].labelled.mean, atol=1e-6)


def test_rows_may_be_segments_of_a_long_recording(enroll, table, recordings, bundle, tmp_path):
    parts = [decode(path) for path in recordings[:8:2]]
    soundfile.write(tmp_path / "long.wav", np.concatenate(parts), 16_000, subtype="FLOAT")
    ends = np.cumsum([len(part) for part in parts]) / 16_000
    anna = table[table.speaker == "anna"]
    enroll("anna", anna)
    said, path = enroll("eva", anna.assign(path="long.wav", speaker="eva", start=[0, *ends[:-1]], end=ends))
    assert said == "eva: 4 new utterances (0 before), labels, as first given: 4 of arousal, 3 of valence\n"
    profiles = SpeakerProfiles(bundle.model, path)
    np.testing.assert_allclose(profiles["eva"].labelled.mean, profiles["anna"].labelled.mean, atol=1e-3)


def test_labels_that_are_none(bundle, recordings):
    recognizer = EmotionRecognizer(replace(bundle, max_samples=40_000), device="cpu")
    long = np.concatenate([decode(path) for path in recordings[:4]])
    enroll, two = partial(recognizer.enroll, "anna"), recordings[:2]
    refused("labels of arousal: aren't 2 numbers", enroll, two, {"arousal": ["high", "low"]})
    refused("labels: the model doesn't predict joy", enroll, two, pd.DataFrame({"joy": [5.0, 4.0]}))
    refused("valence is -inf, outside the scale 1 to 7", enroll, two, {"valence": [-inf, 3.0]})
    refused("array 0: has one label for several utterances", enroll, long, {"arousal": [4.0]})
    assert recognizer.profiles.ids == []
    enroll(long, {"arousal": [nan]})
    assert recognizer.profiles["anna"].utterances > 1


def test_tables_that_enrol_nobody(enroll, table):
    error, _ = enroll("carl", table, code=2)
    assert "table.csv: no row is of speaker carl" in error
    error, path = enroll("anna", table.assign(arousal=nan, valence=nan), code=2)
    assert "has labels of dominance, and the model predicts arousal, valence" in error
    assert not path.exists()
