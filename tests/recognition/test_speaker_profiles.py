from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from ser_personal.errors import UserError
from ser_personal.recognition.profiles import SpeakerProfile, SpeakerProfiles


def arrays_of(profile):
    return np.concatenate(
        [
            profile.vector_sum,
            profile.prediction_mean,
            profile.prediction_squares,
            profile.prediction_magnitude,
            [profile.utterances],
        ]
    )


@given(st.integers(0, 10_000), st.integers(0, 6), st.integers(1, 6))
def test_moments_are_those_of_all_utterances_however_they_were_merged(seed, first, second):
    rng = np.random.default_rng(seed)
    vectors, predictions = rng.normal(size=(first + second, 3)), rng.normal(4, 1, size=(first + second, 2))
    parts = [SpeakerProfile.empty(3, 2), SpeakerProfile.empty(3, 2)]
    for row, (vector, prediction) in enumerate(zip(vectors, predictions, strict=True)):
        parts[row >= first] = parts[row >= first].heard(vector, prediction)
    profile = parts[0].merged(parts[1])
    assert profile.utterances == first + second
    np.testing.assert_allclose(profile.vector, vectors.mean(axis=0), atol=1e-12)
    np.testing.assert_allclose(profile.moments.mu, predictions.mean(axis=0), atol=1e-12)
    np.testing.assert_allclose(profile.moments.sigma, predictions.std(axis=0), atol=1e-7)
    np.testing.assert_array_equal(profile.moments.magnitude, np.abs(predictions).max(axis=0))


def test_equal_predictions_have_no_deviation_at_all():
    profile = SpeakerProfile.empty(1, 1)
    for _ in range(7):
        profile = profile.heard(np.ones(1), np.array([0.1]))
    assert profile.moments.sigma == 0


def test_every_change_is_on_disk(tmp_path, some_profile):
    path = tmp_path / "kept" / "profiles.safetensors"
    profiles = SpeakerProfiles.open("model", path)
    assert profiles.ids == []
    profiles.update({"anna": some_profile(0), "Борис": some_profile(1)})
    profiles.update({"../x": some_profile(2, utterances=1)})
    again = SpeakerProfiles.open("model", path)
    assert list(again) == ["../x", "anna", "Борис"]
    assert len(again) == 3
    for speaker in again:
        np.testing.assert_array_equal(arrays_of(again[speaker]), arrays_of(profiles[speaker]))
    again.delete("anna")
    assert SpeakerProfiles.open("model", path).ids == ["../x", "Борис"]
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_two_ids_of_one_person_become_one(some_profile):
    profiles = SpeakerProfiles("model")
    profiles.update({"anna": some_profile(0), "anna b": some_profile(1)})
    expected = some_profile(0).merged(some_profile(1))
    np.testing.assert_array_equal(arrays_of(profiles.merge("anna", "anna b")), arrays_of(expected))
    assert profiles.ids == ["anna"]
    with pytest.raises(UserError, match="speaker anna: can't be merged with itself"):
        profiles.merge("anna", "anna")
    assert "anna" in profiles


def test_an_unknown_speaker_is_named(some_profile):
    profiles = SpeakerProfiles("model")
    profiles.update({"anna": some_profile()})
    for change in (profiles.delete, profiles.__getitem__, lambda id_: profiles.merge("anna", id_)):
        with pytest.raises(UserError, match=r"speaker bela: no such speaker is enrolled. Enrolled: anna"):
            change("bela")


def test_what_are_no_profiles_of_this_model(tmp_path, some_profile):
    path = tmp_path / "p.safetensors"
    profiles = SpeakerProfiles("model", path)
    profiles.update({"anna": some_profile()})
    with pytest.raises(UserError, match="of another model"):
        SpeakerProfiles.open("another", path)
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(UserError, match="not a whole file"):
        SpeakerProfiles.open("model", path)
    save_file({"a": np.zeros(1)}, path)
    with pytest.raises(UserError, match="no speaker profiles"):
        SpeakerProfiles.open("model", path)
    save_file({}, path, {"format": "ser_personal.speaker_profiles", "version": "2"})
    with pytest.raises(UserError, match="of format 2; this version reads format 1"):
        SpeakerProfiles.open("model", path)
