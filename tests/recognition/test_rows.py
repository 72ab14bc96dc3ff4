from __future__ import annotations

from math import inf, isnan

import numpy as np
import pytest

from ser_personal.calibration.conformal import ConformalTable, HalfWidths
from ser_personal.recognition.recognizer import CalibratedUtterances, RowFormat, Utterances
from ser_personal.recognition.recordings import Recording, Segment

# raw predictions +-1, calibrated ones +-2
TABLE = ConformalTable(0.9, {"arousal": HalfWidths((0, 1), (1.0, 2.0), (20, 20))})
SAID = Utterances(
    Recording("talk.wav", np.zeros(0, np.float32), "anna"),
    seconds=3.0,
    segments=[Segment(0, 16_000), Segment(24_000, 48_000)],
    pooled=np.zeros((2, 3)),
    predictions=np.array([[4.0], [6.5]]),
)


def rows(form: RowFormat, values: list[float], behind: list[int], *, measured: bool = True) -> list[dict]:
    return form.rows(SAID, CalibratedUtterances(np.array(values)[:, None], behind), measured=measured)


def test_a_row_says_where_who_what_and_how_sure():
    first, second = rows(RowFormat(("arousal",), (1, 7), TABLE), [3.0, 5.5], [0, 2])
    place = {"source": "talk.wav", "start": 0.0, "end": 1.0, "speaker": "anna"}
    values = {"arousal_raw": 4.0, "arousal_calibrated": 3.0, "arousal_low": 2.0, "arousal_high": 4.0}
    assert first == {**place, **values, "calibration_utterances": 0}
    assert (second["start"], second["end"], second["calibration_utterances"]) == (1.5, 3.0, 2)
    assert (second["arousal_low"], second["arousal_high"]) == (3.5, 7.0)


def test_columns_are_those_of_rows_in_their_order():
    form = RowFormat(("arousal",), None, TABLE)
    assert list(rows(form, [3.0, 5.5], [0, 0])[0]) == form.columns


@pytest.mark.parametrize(("value", "interval"), [(1.5, (1, 2.5)), (0.0, (1, 1)), (9.0, (7, 7))])
def test_an_interval_keeps_to_the_label_scale_wherever_its_middle_lies(value, interval):
    row = rows(RowFormat(("arousal",), (1, 7), TABLE), [value, 4.0], [0, 0])[0]
    assert (row["arousal_low"], row["arousal_high"]) == interval
    assert row["arousal_calibrated"] == value


def test_too_few_measured_speakers_leave_the_whole_scale():
    unknown = ConformalTable(0.9, {"arousal": HalfWidths((0,), (inf,), (3,))})
    row = rows(RowFormat(("arousal",), (1, 7), unknown), [3.0, 4.0], [0, 0])[0]
    assert (row["arousal_low"], row["arousal_high"]) == (1, 7)


def test_another_calibrators_values_have_no_interval_but_raw_ones_do():
    raw, calibrated = rows(RowFormat(("arousal",), (1, 7), TABLE), [4.0, 5.5], [0, 1], measured=False)
    assert (raw["arousal_low"], raw["arousal_high"]) == (3, 5)
    assert isnan(calibrated["arousal_low"])
    assert isnan(calibrated["arousal_high"])


def test_without_a_table_there_are_no_intervals():
    assert all(isnan(row["arousal_low"]) for row in rows(RowFormat(("arousal",), (1, 7), None), [4.0, 5.5], [0, 1]))
