from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from invented_run import edit_json, invent

from ser_personal.calibration.divergence import SpeakerShift
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


def test_harmed_speakers_are_counted(run):
    found, changes = harm(run, run.sets[0], "arousal", Bootstrap(200)), {}
    for speaker, rows in run.sets[0].utterances.groupby("speaker"):
        raw, calibrated, label = (rows[f"arousal_{kind}"].to_numpy() for kind in ("raw", "calibrated", "label"))
        changes[speaker] = concordance(calibrated, label) - concordance(raw, label)
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
    uncalibrated = replace(run, pldc=replace(run.pldc, scale_std=False))
    nobody = harm(uncalibrated, run.sets[0], "arousal", Bootstrap(100))
    assert (nobody.harmed, nobody.worst_loss, nobody.worst_speaker) == (0, 0, None)


def probed(vectors, genders):
    ids = tuple(f"s{n}" for n in range(len(genders)))
    return probe("toy", SpeakerVectors(ids, vectors), dict(zip(ids, genders, strict=True)), Bootstrap(200))


def test_a_linear_probe_is_balanced_and_never_tested_on_speakers_that_it_was_fitted_on():
    genders = ["Female", "Male"] * 20
    noise = np.random.default_rng(1).normal(size=(40, 200))
    found = probed(noise + np.where(np.array(genders) == "Male", 6.0, 0.0)[:, None], genders)
    assert (found.accuracy.value, found.chance, found.speakers) == (1, 0.5, {"Female": 20, "Male": 20})
    # as many dimensions as speakers: a probe tested on what it was fitted on would reach 1
    assert probed(noise, genders).accuracy.value < 0.75
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


def test_correlations_have_intervals_over_speakers_with_both_shifts_and_a_ccc(run):
    test_set = run.sets[0]
    first = replace(test_set.speakers["s00"], shift=SpeakerShift(9.0, {"arousal": np.nan}))
    found = analyse_shifts(replace(test_set, speakers=test_set.speakers | {"s00": first}), "arousal", Bootstrap(300))
    assert (found.speakers, list(found.correlations)) == (23, list(SHIFTS))
    ccc = test_set.row("raw").scores["arousal"].per_speaker
    of_feature = found.correlations["feature_shift_and_ccc"]
    assert of_feature.value == pytest.approx(np.corrcoef(np.arange(23), [ccc[name] for name in sorted(ccc)[1:]])[0, 1])
    assert of_feature.low < of_feature.value < of_feature.high
    # one falls where the other rises, whoever is drawn
    assert found.correlations["feature_shift_and_label_shift"].high < -0.3


def test_a_run_without_shifts_is_refused(tmp_path):
    edit_json(invent(tmp_path) / "speakers.json", lambda record: record["splits"]["test1"]["s00"].pop("label_shift"))
    with pytest.raises(UserError, match="isn't one complete test run"):
        read_run(tmp_path)
