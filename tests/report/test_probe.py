from __future__ import annotations

import numpy as np
import pytest
from invented_run import invent

from ser_personal.calibration.run_files import SpeakerVectors, read_run
from ser_personal.report.audit import probe, probes
from ser_personal.report.bootstrap import Bootstrap


@pytest.fixture
def run(tmp_path):
    return read_run(invent(tmp_path))


def probed(run, vectors, genders):
    ids = tuple(f"s{n}" for n in range(len(genders)))
    return probe("toy", run, SpeakerVectors(ids, vectors), dict(zip(ids, genders, strict=True)), Bootstrap(200))


def test_a_linear_probe_finds_what_is_linear(run):
    rng = np.random.default_rng(0)
    genders = ["Female", "Male"] * 20
    noise = rng.normal(size=(40, 5))
    told = noise + np.where(np.array(genders) == "Male", 6.0, 0.0)[:, None]
    found = probed(run, told, genders)
    assert (found.accuracy.value, found.chance) == (1, 0.5)
    assert found.speakers == {"Female": 20, "Male": 20}
    assert 0.25 < probed(run, noise, genders).accuracy.value < 0.75


def test_it_is_never_tested_on_speakers_that_it_was_fitted_on(run):
    # as many dimensions as speakers: a probe tested on what it was fitted on would reach 1
    noise = np.random.default_rng(1).normal(size=(40, 200))
    assert probed(run, noise, ["Female", "Male"] * 20).accuracy.value < 0.75


def test_accuracy_is_balanced(run):
    # a probe that always says Male is right for three in four
    found = probed(run, np.zeros((40, 3)), ["Female"] * 10 + ["Male"] * 30)
    assert found.accuracy.value == pytest.approx(0.5)


def test_two_genders_of_ten_speakers_are_needed(run):
    found = probed(run, np.zeros((30, 3)), ["Female"] * 9 + ["Male"] * 20 + [None])
    expected = "a probe takes two genders of 10 speakers each; here: 9 Female, 20 Male"
    assert found.accuracy.refused == expected
    assert np.isnan(found.accuracy.value)
    assert "none with a recorded gender" in probed(run, np.zeros((3, 3)), [None] * 3).accuracy.refused


def test_every_kind_of_vector_is_probed(run):
    assert [found.vectors for found in probes(run, Bootstrap(200))] == [
        "speaker vectors, training speakers",
        "learnt embeddings e_s, training speakers",
        "speaker vectors, test1 speakers",
    ]
