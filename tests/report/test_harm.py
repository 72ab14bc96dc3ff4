from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from invented_run import invent

from ser_personal.calibration.run_files import read_run
from ser_personal.report.audit import _spearman, harm, speaker_changes
from ser_personal.report.bootstrap import Bootstrap
from ser_personal.scores import concordance


@pytest.fixture
def run(tmp_path):
    return read_run(invent(tmp_path))


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
    assert speaker_changes(run, run.sets[0], "arousal") == pytest.approx(changes)
    losses = {speaker: -change for speaker, change in changes.items() if change < 0}
    # the invented calibration doubles the error of odd speakers and halves that of even ones
    assert sorted(losses) == [f"s{n:02}" for n in range(1, 24, 2)]
    assert (found.speakers, found.harmed, found.error_harmed) == (24, 12, 12)
    assert found.share.value == pytest.approx(0.5)
    assert found.mean_loss == pytest.approx(np.mean(list(losses.values())))
    assert found.worst_loss == pytest.approx(max(losses.values()))
    assert found.worst_speaker == max(losses, key=losses.get)
    assert found.mean_change.value == pytest.approx(np.mean(list(changes.values())))
    assert found.mean_change.low < found.mean_change.value < found.mean_change.high
    assert found.harmed_of_gender == {"Female": (0, 12), "Male": (12, 12)}


def test_traits_of_the_harmed(run):
    found, changes = harm(run, run.sets[0], "arousal", Bootstrap(200)), by_hand(run)
    traits = {trait.name: trait for trait in found.traits}
    assert traits["seconds of speech"].harmed == np.median(np.arange(2, 25, 2)) * 10
    assert traits["seconds of speech"].others == np.median(np.arange(1, 24, 2)) * 10
    ranks = pd.Series(list(changes.values())).corr(pd.Series(range(24)), method="spearman")
    assert traits["seconds of speech"].correlation.value == pytest.approx(ranks)
    # each has twelve
    assert traits["utterances"].correlation.refused == "undefined"


def test_nobody_is_harmed_where_nothing_changes(tmp_path):
    run = read_run(invent(tmp_path))
    object.__setattr__(run, "pldc", {**run.pldc, "scale_std": False})
    found = harm(run, run.sets[0], "arousal", Bootstrap(100))
    assert (run.chosen, found.harmed, found.worst_loss, found.worst_speaker) == ("raw", 0, 0, None)
    assert np.isnan(found.mean_loss)


def test_without_a_speaker_of_enough_utterances(tmp_path):
    run = read_run(invent(tmp_path, speakers=3, utterances=4))
    found = harm(run, run.sets[0], "arousal", Bootstrap(100))
    assert (found.speakers, found.harmed) == (0, 0)
    assert found.share.refused == "0 speakers, an interval takes 10"


def test_rank_correlation_is_spearman_s():
    rng = np.random.default_rng(0)
    x, y = rng.integers(5, size=(3, 20)).astype(float), rng.normal(size=(3, 20))
    expected = [pd.Series(a).corr(pd.Series(b), method="spearman") for a, b in zip(x, y, strict=True)]
    np.testing.assert_allclose(_spearman(x, y), expected)
