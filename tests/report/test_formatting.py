from __future__ import annotations

import pytest
from invented_run import invent

from ser_personal.calibration.table import decimal
from ser_personal.evaluation.run_files import read_run
from ser_personal.report import formatting
from ser_personal.report.bootstrap import Estimate

NAN = float("nan")


@pytest.mark.parametrize(
    ("value", "plain", "signed"),
    [
        (0.5, ".500", "+.500"),
        (-0.25, "-.250", "-.250"),
        (10.5, "10.500", "+10.500"),
        (0.0, ".000", ".000"),
        (-0.0002, ".000", ".000"),
        (NAN, "-", "-"),
    ],
)
def test_figures(value, plain, signed):
    assert decimal(value) == plain
    assert formatting.signed(value) == signed


def test_intervals_or_why_there_is_none():
    assert formatting.interval(Estimate(0.5, 0.25, 0.75)) == ".500 (.250 to .750)"
    assert formatting.signed_interval(Estimate(0.5, -0.25, 0.75)) == "+.500 (-.250 to +.750)"
    assert formatting.interval(Estimate(0.5, refused="3 speakers")) == ".500 (3 speakers)"


@pytest.mark.parametrize(("seconds", "said"), [(45, "45 s"), (720, "12 min"), (12_240, "3.4 h")])
def test_durations(seconds, said):
    assert formatting.duration(seconds) == said


def test_settings(tmp_path):
    run = read_run(invent(tmp_path))
    assert formatting.settings(run) == "sigma, k = 2, average statistics"
