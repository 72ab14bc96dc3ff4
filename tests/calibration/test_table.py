from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from people import people

from ser_personal.calibration.pldc import PLDC, PLDCSettings, calibrate
from ser_personal.calibration.table import LEGEND, calibration_table, standard_calibrators
from ser_personal.evaluation.run_files import RIDGE
from ser_personal.report.formatting import ROWS
from ser_personal.scores import score
from ser_personal.speakers.bank import SpeakerBank

ATTRIBUTES = ("arousal", "valence")
PAPER = {"mu": (True, False), "sigma": (False, True), "both": (True, True)}


@pytest.fixture(scope="module")
def pldc():
    train = people("train", 60, 1)
    bank = SpeakerBank.from_utterances(train.speaker_ids, train.pooled, train.labels, ATTRIBUTES)
    return PLDC(bank, ATTRIBUTES, PLDCSettings(k=5, shift_mean=True))


@pytest.fixture(scope="module")
def validation():
    return people("validation", 10, 2)


@pytest.fixture(scope="module")
def test_set():
    return people("test", 20, 3)


@pytest.fixture(scope="module")
def rows(pldc, validation, test_set):
    return {row.name: row for row in calibration_table(test_set, pldc, standard_calibrators(pldc, validation))}


def test_rows_by_name_with_the_oracle_last_and_marked(rows):
    names = "raw mu sigma both affine posterior population random_speakers own_statistics"
    assert " ".join(rows) == names
    assert [name for name, row in rows.items() if row.is_oracle] == ["own_statistics"]
    assert [name for name, row in rows.items() if row.is_random] == ["random_speakers"]


def test_every_row_is_explained_in_the_terminal_and_in_the_report(rows):
    assert {name for name in rows if re.search(rf"\b{name}\b", LEGEND)} == set(rows)
    assert set(ROWS) == {*rows, RIDGE}


def test_rows_of_the_paper_are_calibrate(rows, test_set, pldc):
    np.testing.assert_array_equal(rows["raw"].predictions[0], test_set.predictions)
    inputs = test_set.predictions, test_set.speaker_ids, test_set.pooled, pldc.bank
    for name, (shift_mean, scale_std) in PAPER.items():
        expected = calibrate(*inputs, k=5, shift_mean=shift_mean, scale_std=scale_std).predictions
        np.testing.assert_array_equal(rows[name].predictions, expected[None])
    population = calibrate(*inputs, k=60, shift_mean=True).predictions
    np.testing.assert_array_equal(rows["population"].predictions, population[None])
    draws = [score(p, test_set.labels, test_set.speaker_ids, ATTRIBUTES) for p in rows["random_speakers"].predictions]
    expected = np.mean([draw["valence"].average_ccc for draw in draws])
    assert (len(draws), rows["random_speakers"].scores["valence"].average_ccc) == (20, pytest.approx(expected))


def test_similar_voices_help_where_voices_tell_the_labels(rows):
    for attribute in ATTRIBUTES:
        average = {name: row.scores[attribute].average_ccc for name, row in rows.items()}
        assert average["own_statistics"] > average["both"] > average["population"]
        assert average["both"] > average["random_speakers"]
        assert average["both"] > average["affine"]


def test_no_row_but_the_oracle_sees_a_test_label(rows, pldc, validation, test_set):
    order = np.random.default_rng(4).permutation(len(test_set.labels))
    blind = calibration_table(
        replace(test_set, labels=test_set.labels[order]), pldc, standard_calibrators(pldc, validation)
    )
    for row in blind:
        same = np.array_equal(row.predictions, rows[row.name].predictions)
        assert same != row.is_oracle, row.name


def test_a_callers_own_calibrator_is_one_more_row(pldc, test_set):
    def constant(predictions, speaker_ids, pooled):
        return np.full_like(predictions, 4.0)

    rows = calibration_table(test_set, pldc, standard_calibrators(pldc) | {"posterior": constant})
    by_name = {row.name: row for row in rows}
    assert "affine" not in by_name
    assert by_name["posterior"].scores["valence"].overall_ccc == 0
    assert by_name["posterior"].predictions.shape == (1, *test_set.predictions.shape)


def test_few_validation_speakers_fit_no_posterior(pldc):
    calibrators = standard_calibrators(pldc, people("validation", 4, 2))
    assert "affine" in calibrators
    assert "posterior" not in calibrators


def test_an_attribute_without_training_labels_stays_as_it_is(pldc, validation, test_set):
    none = {
        name: np.where([True, False], value, getattr(pldc.bank, name))
        for name, value in {"count": 0, "label_mean": np.nan, "label_std": np.nan}.items()
    }
    unlabelled = replace(pldc, bank=replace(pldc.bank, **none))
    calibrators = standard_calibrators(unlabelled, validation)
    assert "posterior" not in calibrators
    for row in calibration_table(test_set, unlabelled, calibrators):
        if row.name in {"mu", "sigma", "both", "population", "random_speakers"}:
            for draw in row.predictions:
                np.testing.assert_array_equal(draw[:, 0], test_set.predictions[:, 0])
                assert (draw[:, 1] != test_set.predictions[:, 1]).any()
