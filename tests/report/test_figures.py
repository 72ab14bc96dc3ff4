from __future__ import annotations

from dataclasses import replace

import matplotlib as mpl
import numpy as np
import pytest
from invented_run import invent

from ser_personal.evaluation.run_files import read_run
from ser_personal.report.bootstrap import Bootstrap
from ser_personal.report.figures import (
    INK,
    Drawing,
    as_svg,
    binned_means,
    blank,
    chosen_speakers,
    distributions,
    dumbbells,
    forest,
    neighbour_matrix,
    style,
)
from ser_personal.report.formatting import ROWS


@pytest.fixture
def run(tmp_path):
    return read_run(invent(tmp_path))


def test_matplotlib_s_settings_come_back():
    before = dict(mpl.rcParams)
    with style():
        assert mpl.rcParams["svg.fonttype"] == "none"
    assert dict(mpl.rcParams) == before


def test_an_svg_is_self_contained_and_of_the_page_s_ink():
    with style():
        figure, (axes,) = blank(2)
        axes.set_xlabel("a < b & c")
        svg = as_svg(Drawing("a toy", figure))
    assert svg.startswith("<svg ")
    assert "http" not in svg
    assert INK not in svg
    assert "currentColor" in svg
    assert "a &lt; b &amp; c" in svg


def test_every_row_has_its_gain_by_kind_and_a_caller_s_own_by_its_name(run):
    test = run.sets[0]
    own = replace(test, rows=(*test.rows, replace(test.row("sigma"), name="median")))
    with style():
        (axes,) = forest(run, own, "arousal", Bootstrap(resamples=100)).figure.axes
    names = [tick.get_text() for tick in axes.get_yticklabels()]
    short = {row.short for name, row in ROWS.items() if name not in {"raw", "ridge"}}
    assert (len(names), set(names)) == (len(short) + 1, {*short, "median"})
    assert names[4:] == ["median", "one map for all", "all speakers", "random speakers", "own labels (oracle)"]


def test_dumbbells_hold_both_scores_of_each_speaker(run):
    test = run.sets[0]
    with style():
        (axes,) = dumbbells(run, test, "arousal").figure.axes
    raw, calibrated = (line.get_xdata() for line in axes.lines[-2:])
    for drawn, name in ((raw, "raw"), (calibrated, "sigma")):
        np.testing.assert_allclose(sorted(drawn), sorted(test.row(name).scores["arousal"].per_speaker.values()))
    assert (np.diff(raw) >= 0).all()
    dotted = [line.get_linestyle() == ":" for line in axes.lines[:-2]]
    assert dotted == [after < before for before, after in zip(raw, calibrated, strict=True)]


def test_best_median_and_worst(run):
    test = run.sets[0]
    ccc = test.row("sigma").scores["arousal"].per_speaker
    chosen = chosen_speakers(run, test, "arousal")
    assert chosen["best"] == max(ccc, key=ccc.get)
    assert chosen["worst"] == min(ccc, key=ccc.get)
    assert sum(value > ccc[chosen["median"]] for value in ccc.values()) == 12


def test_as_many_single_speakers_as_there_are(tmp_path):
    one = read_run(invent(tmp_path / "one", speakers=1))
    assert list(chosen_speakers(one, one.sets[0], "arousal")) == ["best"]
    few = read_run(invent(tmp_path / "few", utterances=5))
    assert distributions(few, few.sets[0], "arousal") is None


def test_bins_are_equally_full_and_leave_out_what_is_unlabelled():
    predictions = np.arange(101.0)
    labels = predictions / 2
    labels[100] = np.nan
    predicted, labelled = binned_means(predictions[::-1], labels[::-1])
    np.testing.assert_allclose(predicted, np.arange(10) * 10 + 4.5)
    np.testing.assert_allclose(labelled, predicted / 2)


def test_who_calibrated_whom(run):
    with style():
        matrix = neighbour_matrix(run.sets[0])
    assert "the most used, t1, calibrated 24" in matrix.alt
    cosines = np.ma.filled(matrix.figure.axes[0].images[0].get_array(), np.nan)
    assert cosines.shape == (24, 4)
    np.testing.assert_allclose(cosines[:, 0], 0.9)
    assert (np.isnan(cosines).sum(axis=1) == 2).all()
