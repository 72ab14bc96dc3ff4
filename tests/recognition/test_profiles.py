import numpy as np
from garbage import refused

from ser_personal.recognition.profiles import SpeakerProfile, SpeakerProfiles


def test_an_utterance_counts_once_and_takes_labels_that_it_had_not():
    rng = np.random.default_rng(0)
    vectors, predictions = rng.normal(size=(2, 3)), rng.normal(4, 1, size=(2, 2))
    once, often = SpeakerProfile.empty(3, 2), SpeakerProfile.empty(3, 2)
    for row, labels in enumerate([[6.0, 5.0], [np.nan, 2.0]]):
        once = once.add(vectors[row], predictions[row], np.array(labels), row)
    added = [(0, [np.nan, 5.0]), (1, None), (0, [6.0, 1.0]), (1, [np.nan, 2.0]), (0, None), (1, [np.nan, 7.0])]
    for row, labels in added:
        often = often.add(vectors[row] + 1e-6, predictions[row], None if labels is None else np.array(labels), row)
    assert once.utterances == often.utterances == 2
    np.testing.assert_array_equal(often.labelled.count, once.labelled.count)
    np.testing.assert_allclose(often.labelled.mean, once.labelled.mean, atol=1e-12)
    found, expected = (np.concatenate([array.ravel() for array in one.arrays().values()]) for one in (often, once))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def some_profile(seed):
    rng = np.random.default_rng(seed)
    profile = SpeakerProfile.empty(4, 2)
    for row in range(5):
        profile = profile.add(rng.normal(size=4), rng.normal(4, 1, size=2), rng.uniform(1, 7, size=2), row)
    return profile


def test_every_change_is_on_disk(tmp_path):
    path = tmp_path / "kept" / "profiles.safetensors"
    profiles = SpeakerProfiles("model", path)
    for number, speaker in enumerate(("anna", "Борис", "../x")):
        profiles.extend({speaker: []}, some_profile(number))
    again = SpeakerProfiles("model", path)
    assert again.ids == ["../x", "anna", "Борис"]
    assert all(again[speaker].equals(profiles[speaker]) for speaker in again.ids)
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o644)
    again.delete("anna")
    assert SpeakerProfiles("model", path).ids == ["../x", "Борис"]
    assert {file.name for file in path.parent.iterdir()} - {f".{path.name}.lock"} == {path.name}
    assert path.stat().st_mode & 0o777 == 0o600


def test_what_others_changed_meanwhile_stays(tmp_path):
    path = tmp_path / "profiles.safetensors"
    one, other = SpeakerProfiles("model", path), SpeakerProfiles("model", path)
    one.extend({"anna": []}, some_profile(0))
    one.extend({"ben": []}, some_profile(1))
    other.extend({"carla": []}, some_profile(2))
    one.delete("ben")
    utterance = np.ones(4), np.array([4.0, 5.0]), np.array([np.nan, 4.0])
    other.extend({"anna": [(*utterance, 101)], "ben": [(*utterance, 101)]})
    one.extend({"anna": [(*utterance, 102)]})
    assert one.ids == SpeakerProfiles("model", path).ids == ["anna", "carla"]
    assert one["anna"].equals(some_profile(0).add(*utterance, 101).add(*utterance, 102))
    path.unlink()
    one.reload()
    assert one.ids == []
    refused("speaker anna: no such speaker is enrolled. Enrolled: nobody yet", one.delete, "anna")


def test_a_profile_that_another_program_changed_is_not_replaced(tmp_path):
    path = tmp_path / "people.safetensors"
    one = SpeakerProfiles("model", path)
    for number, speaker in enumerate(("anna", "ben", "carla")):
        one.extend({speaker: []}, some_profile(number))
    other = SpeakerProfiles("model", path)
    other.update({"anna": some_profile(3)})
    other.delete("carla")
    refused("another program or thread has changed the profile of anna", one.update, {"anna": some_profile(4)})
    one.update({"ben": some_profile(5), "carla": some_profile(6)})
    saved = SpeakerProfiles("model", path)
    assert saved.ids == ["anna", "ben"]
    assert saved["anna"].equals(some_profile(3))
    assert saved["ben"].equals(some_profile(5))
