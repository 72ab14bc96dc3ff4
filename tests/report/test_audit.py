from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from invented_run import edit_json, invent

from ser_personal.errors import UserError
from ser_personal.evaluation.run_files import SpeakerVectors, read_run
from ser_personal.report.audit import SHIFTS, analyse_shifts, harm, probe, probes
from ser_personal.report.bootstrap import Bootstrap
from ser_personal.scores import concordance


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return read_run(invent(tmp_path_factory.mktemp("run")))


@pytest.fixture(autouse=True)
def few_repeats(monkeypatch):
    monkeypatch.setattr("ser_personal.report.audit.REPEATS", 2)


def by_hand(run):
    """Speaker -> change of CCC."""
    (test,) = run.sets
    changes = {}
    for speaker, rows in test.utterances.groupby("speaker"):
        raw, calibrated, label = (rows[f"arousal_{kind}"].to_numpy() for kind in ("raw", "calibrated", "label"))
        changes[speaker] = concordance(calibrated, label) - concordance(raw, label)
    return changes


def test_harmed_speakers_are_counted(run):
    found, changes = harm(run, run.sets[0], "arousal", Bootstrap(200)), by_hand(run)
    losses = {speaker: -change for speaker, change in changes.items() if change < 0}
    # the invented calibration doubles the error of odd speakers and halves that of even ones
    assert sorted(losses) == [f"s{n:02}" for n in range(1, 24, 2)]
    assert (found.speakers, found.harmed) == (24, 12)
    assert found.share.value == pytest.approx(0.5)
    assert found.worst_loss == pytest.approx(max(losses.values()))
    assert found.worst_speaker == max(losses, key=losses.get)
    assert found.mean_change.value == pytest.approx(np.mean(list(changes.values())))
    assert found.mean_change.low < found.mean_change.value < found.mean_change.high
    assert found.harmed_of_gender == {"Female": (0, 12), "Male": (12, 12)}


def test_nobody_is_harmed_where_nothing_changes(run):
    found = harm(replace(run, pldc=replace(run.pldc, scale_std=False)), run.sets[0], "arousal", Bootstrap(100))
    assert (found.harmed, found.worst_loss, found.worst_speaker) == (0, 0, None)


def probed(vectors, genders):
    ids = tuple(f"s{n}" for n in range(len(genders)))
    return probe("toy", SpeakerVectors(ids, vectors), dict(zip(ids, genders, strict=True)), Bootstrap(200))


def test_a_linear_probe_finds_what_is_linear():
    rng = np.random.default_rng(0)
    genders = ["Female", "Male"] * 20
    told = rng.normal(size=(40, 5)) + np.where(np.array(genders) == "Male", 6.0, 0.0)[:, None]
    found = probed(told, genders)
    assert (found.accuracy.value, found.chance) == (1, 0.5)
    assert found.speakers == {"Female": 20, "Male": 20}


def test_it_is_balanced_and_never_tested_on_speakers_that_it_was_fitted_on():
    # as many dimensions as speakers: a probe tested on what it was fitted on would reach 1
    noise = np.random.default_rng(1).normal(size=(40, 200))
    assert probed(noise, ["Female", "Male"] * 20).accuracy.value < 0.75
    # a probe that always says Male is right for three in four
    assert probed(np.zeros((40, 3)), ["Female"] * 10 + ["Male"] * 30).accuracy.value == pytest.approx(0.5)


def test_two_genders_of_ten_speakers_are_needed():
    found = probed(np.zeros((30, 3)), ["Female"] * 9 + ["Male"] * 20 + [None])
    expected = "a probe needs two genders of 10 speakers each; here: 9 Female, 20 Male"
    assert found.accuracy.refused == expected
    assert np.isnan(found.accuracy.value)
    assert "none with a recorded gender" in probed(np.zeros((3, 3)), [None] * 3).accuracy.refused


def test_every_kind_of_vector_is_probed(run):
    assert [found.vectors for found in probes(run, Bootstrap(200))] == [
        "speaker vectors, training speakers",
        "learnt embeddings e_s, training speakers",
        "speaker vectors, test1 speakers",
    ]


def test_correlations_have_intervals_over_speakers(run):
    test_set = run.sets[0]
    found = analyse_shifts(test_set, "arousal", Bootstrap(300))
    assert (found.speakers, list(found.correlations)) == (24, list(SHIFTS))
    ccc = test_set.row("raw").scores["arousal"].per_speaker
    of_feature = found.correlations["feature_shift_and_ccc"]
    assert of_feature.value == pytest.approx(np.corrcoef(np.arange(24), [ccc[name] for name in sorted(ccc)])[0, 1])
    assert of_feature.low < of_feature.value < of_feature.high
    # one falls where the other rises, whoever is drawn
    assert found.correlations["feature_shift_and_label_shift"].high < -0.3


def test_a_run_without_shifts_is_refused(tmp_path):
    edit_json(invent(tmp_path) / "speakers.json", lambda record: record["splits"]["test1"]["s00"].pop("label_shift"))
    with pytest.raises(UserError, match="isn't one complete test run"):
        read_run(tmp_path)
