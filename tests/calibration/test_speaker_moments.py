from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from ser_personal.calibration.run_files import SPEAKER_MOMENTS, speaker_moments, write_moments
from ser_personal.calibration.table import CalibrationRow
from ser_personal.scores import concordance, mean_scores, score

SPEAKERS = ["a", "a", "b", None, "b", "a", "c"]


@pytest.fixture
def scored():
    rng = np.random.default_rng(0)
    predictions, labels = rng.normal(4, 1, (2, 7, 2)), rng.normal(4, 1, (7, 2))
    labels[[1, 6], 0] = np.nan
    scores = mean_scores([score(draw, labels, SPEAKERS, ("arousal", "valence")) for draw in predictions])
    return CalibrationRow("random_speakers", scores, predictions), labels


def test_each_line_is_the_moments_of_one_speakers_labelled_utterances(scored):
    row, labels = scored
    table = speaker_moments("test1", [row], labels, SPEAKERS)
    # c has no label of arousal, the unknown speaker no line
    assert len(table) == 2 * (2 + 3)
    line = table[(table.draw == 1) & (table.attribute == "arousal") & (table.speaker == "a")].iloc[0]
    x, y = row.predictions[1][[0, 5], 0], labels[[0, 5], 0]
    assert (line.split, line.row, line.utterances) == ("test1", "random_speakers", 2)
    assert line.covariance == pytest.approx(np.cov(x, y, ddof=0)[0, 1])
    assert line.prediction_variance == pytest.approx(np.var(x))
    assert (line.prediction_mean, line.label_mean) == (pytest.approx(x.mean()), pytest.approx(y.mean()))
    assert line.ccc == concordance(x, y)


def test_a_file_keeps_every_digit(scored, tmp_path):
    table = speaker_moments("test1", [scored[0]], scored[1], SPEAKERS)
    write_moments(tmp_path, [table, table.assign(split="test2")])
    read = pd.read_csv(tmp_path / SPEAKER_MOMENTS, float_precision="round_trip")
    pd.testing.assert_frame_equal(read[read.split == "test1"], table, check_dtype=False, rtol=0, atol=0)
