from __future__ import annotations

import numpy as np
import pytest
from invented_run import edit_json, invent

from ser_personal.calibration.run_files import read_run
from ser_personal.report.audit import NAMES, analyse_shifts, shift_table
from ser_personal.report.bootstrap import Bootstrap
from ser_personal.report.figures import shift_scatter, style


@pytest.fixture
def test_set(tmp_path):
    return read_run(invent(tmp_path)).sets[0]


def test_correlations_have_intervals_over_speakers(test_set):
    found = analyse_shifts(test_set, "arousal", Bootstrap(300))
    assert (found.speakers, list(found.correlations)) == (24, list(NAMES))
    ccc = test_set.row("raw").scores["arousal"].per_speaker
    of_feature = found.correlations["feature_shift_and_ccc"]
    assert of_feature.value == pytest.approx(np.corrcoef(np.arange(24), [ccc[name] for name in sorted(ccc)])[0, 1])
    assert of_feature.low < of_feature.value < of_feature.high
    # one falls where the other rises, whoever is drawn
    assert found.correlations["feature_shift_and_label_shift"].high < -0.3


def test_the_scatter_holds_every_speaker(test_set):
    with style():
        drawing = shift_scatter(test_set, "arousal", analyse_shifts(test_set, "arousal", Bootstrap(300)))
    table = shift_table(test_set, "arousal")
    for axes, shift in zip(drawing.figure.axes, (table.feature, table.label), strict=True):
        np.testing.assert_array_equal(axes.lines[0].get_xdata(), shift)
        np.testing.assert_array_equal(axes.lines[0].get_ydata(), table.ccc)
    assert "24 speakers" in drawing.alt


def test_a_run_of_an_earlier_version_has_no_shifts(tmp_path):
    def forget(record):
        for speaker in record["splits"]["test1"].values():
            del speaker["feature_shift"], speaker["label_shift"]

    edit_json(invent(tmp_path) / "speakers.json", forget)
    test = read_run(tmp_path).sets[0]
    found = analyse_shifts(test, "arousal", Bootstrap(300))
    assert found.speakers == 0
    assert all(np.isnan(each.value) for each in found.correlations.values())
    assert shift_scatter(test, "arousal", found) is None
