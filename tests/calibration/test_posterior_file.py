from __future__ import annotations

import json

import numpy as np
import pytest

from ser_personal import PosteriorCalibrator, SpeakerBank
from ser_personal.calibration.posterior import load_posterior, save_posterior
from ser_personal.errors import UserError

ATTRIBUTES = ("arousal", "valence")


def people(prefix, number, seed):
    rng = np.random.default_rng(seed)
    speaker = np.repeat(np.arange(number), 20)
    voices = rng.normal(size=(number, 4))
    means = 4 + 0.5 * voices[:, :2]
    within = rng.normal(size=(len(speaker), 2))
    predictions = 1 + 0.6 * means[speaker] + 0.5 * within + 0.3 * rng.normal(size=within.shape)
    speaker_ids = [f"{prefix}{one:02}" for one in speaker]
    return predictions, speaker_ids, voices[speaker] + rng.normal(size=(len(speaker), 4)), means[speaker] + within


@pytest.fixture
def calibrator():
    training, validation = people("t", 40, 0), people("v", 12, 1)
    return PosteriorCalibrator(SpeakerBank.from_utterances(*training[1:], ATTRIBUTES)).fit(*validation)


def test_what_is_read_calibrates_as_what_was_fitted(calibrator, tmp_path):
    predictions, speaker_ids, pooled, _ = people("n", 6, 2)
    save_posterior(calibrator.fitted, tmp_path / "p.json")
    again = PosteriorCalibrator(calibrator.bank)
    again.fitted = load_posterior(tmp_path / "p.json")
    for causal in (False, True):
        ours, theirs = (one.calibrate(predictions, speaker_ids, pooled, causal=causal) for one in (again, calibrator))
        np.testing.assert_array_equal(ours.predictions, theirs.predictions)


def test_nothing_of_single_speakers_is_written(calibrator, tmp_path):
    save_posterior(calibrator.fitted, tmp_path / "p.json")

    def lists(content):
        if isinstance(content, list):
            yield content
        for value in content.values() if isinstance(content, dict) else ():
            yield from lists(value)

    assert {len(one) for one in lists(json.loads((tmp_path / "p.json").read_text()))} == {4, 2}


@pytest.mark.parametrize(
    ("edit", "what"),
    [
        (lambda content: content | {"version": 2}, "posterior of format 2; this version reads up to 1. Update"),
        (lambda content: content | {"attributes": {"arousal": {}}}, "isn't a posterior"),
        (lambda _: [], "isn't a posterior"),
    ],
)
def test_what_is_no_posterior(calibrator, tmp_path, edit, what):
    path = tmp_path / "p.json"
    save_posterior(calibrator.fitted, path)
    path.write_text(json.dumps(edit(json.loads(path.read_text()))))
    with pytest.raises(UserError, match=what):
        load_posterior(path)
    path.write_text(path.read_text()[:-3])
    with pytest.raises(UserError, match="isn't a posterior"):
        load_posterior(path)
