from dataclasses import replace

import audmetric
import numpy as np
import pytest
from invented_run import people

from ser_personal.calibration.controls import AffineMap, RandomSpeakers, own_statistics
from ser_personal.calibration.pldc import PLDC, PLDCSettings, calibrate
from ser_personal.calibration.table import LEGEND, calibration_table, standard_calibrators
from ser_personal.evaluation.run_files import RIDGE
from ser_personal.report.figures import ROWS
from ser_personal.scores import score
from ser_personal.speakers.bank import SpeakerBank

ATTRIBUTES = ("arousal", "valence")
NAN = float("nan")
VALIDATION, TEST = people("validation", 10, 2), people("test", 20, 3)


@pytest.fixture(scope="module")
def pldc():
    train = people("train", 60, 1)
    bank = SpeakerBank.from_utterances(train.speaker_ids, train.pooled, train.labels, ATTRIBUTES)
    return PLDC(bank, ATTRIBUTES, PLDCSettings(k=5, shift_mean=True))


@pytest.fixture(scope="module")
def rows(pldc):
    return {row.name: row for row in calibration_table(TEST, pldc, standard_calibrators(pldc, VALIDATION))}


def test_rows_by_name_explained_in_terminal_and_report_with_the_oracle_last_and_marked(rows):
    assert " ".join(rows) == "raw mu sigma both affine posterior population random_speakers own_statistics"
    assert [name for name, row in rows.items() if row.is_oracle] == ["own_statistics"]
    assert [name for name, row in rows.items() if row.is_random] == ["random_speakers"]
    assert (set(LEGEND), set(ROWS)) == ({*rows}, {*rows, RIDGE})


def test_rows_of_the_paper_are_calibrate(rows, pldc):
    np.testing.assert_array_equal(rows["raw"].predictions[0], TEST.predictions)
    inputs = TEST.predictions, TEST.speaker_ids, TEST.pooled, pldc.bank
    for name, shift_mean, scale_std in (("mu", True, False), ("sigma", False, True), ("both", True, True)):
        expected = calibrate(*inputs, k=5, shift_mean=shift_mean, scale_std=scale_std).predictions
        np.testing.assert_array_equal(rows[name].predictions, expected[None])
    population = calibrate(*inputs, k=60, shift_mean=True).predictions
    np.testing.assert_array_equal(rows["population"].predictions, population[None])
    draws = [score(p, TEST.labels, TEST.speaker_ids, ATTRIBUTES) for p in rows["random_speakers"].predictions]
    expected = np.mean([draw["valence"].average_ccc for draw in draws])
    assert (len(draws), rows["random_speakers"].scores["valence"].average_ccc) == (20, pytest.approx(expected))


def test_similar_voices_help_where_voices_tell_the_labels(rows):
    for attribute in ATTRIBUTES:
        average = {name: row.scores[attribute].average_ccc for name, row in rows.items()}
        assert average["own_statistics"] > average["both"] > average["population"]
        assert average["both"] > max(average["random_speakers"], average["affine"])


def test_no_row_but_the_oracle_sees_a_test_label(rows, pldc):
    shuffled = replace(TEST, labels=TEST.labels[np.random.default_rng(4).permutation(len(TEST.labels))])
    for row in calibration_table(shuffled, pldc, standard_calibrators(pldc, VALIDATION)):
        assert np.array_equal(row.predictions, rows[row.name].predictions) != row.is_oracle, row.name


def test_without_training_labels_an_attribute_stays_as_it_is_and_few_labels_fit_no_posterior(pldc, capsys):
    assert {"affine", "posterior"} & {*standard_calibrators(pldc, people("validation", 4, 2))} == {"affine"}
    assert "posterior is left out: 60 training and 4 validation speakers have" in capsys.readouterr().out
    half = replace(VALIDATION, labels=np.where([True, False], NAN, VALIDATION.labels))
    assert not {"affine", "posterior"} & {*standard_calibrators(pldc, half)}
    assert "affine and posterior are left out" in capsys.readouterr().out
    nothing = {"count": 0, "label_mean": NAN, "label_std": NAN}
    none = {name: np.where([True, False], value, getattr(pldc.bank, name)) for name, value in nothing.items()}
    unlabelled = replace(pldc, bank=replace(pldc.bank, **none))
    calibrators = standard_calibrators(unlabelled, VALIDATION)
    assert "posterior" not in calibrators
    for row in calibration_table(TEST, unlabelled, calibrators):
        if row.name in {"mu", "sigma", "both", "population", "random_speakers"}:
            for draw in row.predictions:
                np.testing.assert_array_equal(draw[:, 0], TEST.predictions[:, 0])
                assert (draw[:, 1] != TEST.predictions[:, 1]).any()


@pytest.mark.parametrize("sign", [1, -1])
def test_no_other_line_has_a_greater_ccc_and_it_equals_the_correlation(sign):
    rng = np.random.default_rng(11)
    predictions = rng.normal(size=(200, 1))
    labels = 4 + sign * predictions + rng.normal(size=(200, 1))
    best = AffineMap.fit(predictions, labels)

    def ccc_of(slope, intercept):
        return audmetric.concordance_cc(labels[:, 0], slope * predictions[:, 0] + intercept)

    reached = ccc_of(best.slope[0], best.intercept[0])
    assert reached == pytest.approx(abs(np.corrcoef(predictions[:, 0], labels[:, 0])[0, 1]))
    for slope in np.linspace(-3, 3, 25):
        for intercept in np.linspace(2, 6, 17):
            assert ccc_of(slope, intercept) <= reached


def test_affine_map_where_nothing_can_be_fitted():
    # constant predictions, and but for float32 rounding; a single label, no label
    rounded = np.nextafter(np.float32(0.1), np.float32(1))
    predictions = np.array([[0.1, rounded, 2.0, 3.0], [0.1, 0.1, 3.0, 4.0], [0.1, 0.1, 4.0, 5.0]])
    fitted = AffineMap.fit(predictions, np.array([[1, 1, NAN, NAN], [4, 4, 6.0, NAN], [7, 7, NAN, NAN]]))
    assert fitted.slope.tolist() == [1, 1, 1, 1]
    np.testing.assert_allclose(fitted.intercept, [3.9, 3.9, 3.0, 0.0])


@pytest.fixture
def inputs():
    rng = np.random.default_rng(11)
    return rng.normal(4, 1, (28, 2)), ["b"] * 10 + ["a"] * 15 + [None] * 3, rng.normal(size=(28, 2))


def test_each_draw_takes_k_random_speakers_of_the_bank_for_each_test_speaker(pldc, inputs):
    draws = RandomSpeakers(replace(pldc, settings=PLDCSettings(k=1, shift_mean=True)), draws=50)(*inputs)
    assert draws.shape == (50, 28, 2)
    np.testing.assert_array_equal(draws[:, 25:], np.broadcast_to(inputs[0][25:], (50, 3, 2)))
    means = [draws[:, rows].mean(axis=1) for rows in (slice(0, 10), slice(10, 25))]
    for reached in means:
        assert np.abs(reached[:, None] - pldc.bank.label_mean[None]).max(axis=2).min(axis=1).max() < 1e-9
        assert len(np.unique(reached.round(9), axis=0)) > 10
    assert not np.allclose(*means)


def test_random_speakers_follow_the_seed_whatever_the_order_of_utterances(pldc, inputs):
    predictions, speaker_ids, pooled = inputs
    draws = RandomSpeakers(pldc, draws=3, seed=5)(*inputs)
    assert not np.allclose(draws, RandomSpeakers(pldc, draws=3, seed=6)(*inputs))
    order = np.random.default_rng(0).permutation(28)
    shuffled = RandomSpeakers(pldc, draws=3, seed=5)(predictions[order], [speaker_ids[i] for i in order], pooled[order])
    np.testing.assert_allclose(shuffled, draws[:, order], atol=1e-12)


def test_own_statistics_are_the_speakers_own_labels(pldc, inputs):
    predictions, labels = inputs[0], np.random.default_rng(1).uniform(1, 7, (28, 2))
    labels[:4, 0] = NAN
    labels[10:25, 1] = NAN
    oracle = own_statistics(pldc, *inputs, labels)
    np.testing.assert_allclose(oracle[:10].mean(axis=0), np.nanmean(labels[:10], axis=0))
    np.testing.assert_allclose(oracle[:10].std(axis=0), np.nanstd(labels[:10], axis=0))
    np.testing.assert_array_equal(oracle[10:25, 1], predictions[10:25, 1])
    np.testing.assert_array_equal(oracle[25:], predictions[25:])
    sigma = own_statistics(replace(pldc, settings=PLDCSettings()), *inputs, labels)
    np.testing.assert_allclose(sigma[:10].mean(axis=0), predictions[:10].mean(axis=0))
