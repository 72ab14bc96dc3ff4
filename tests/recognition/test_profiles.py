from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file
from tiny_models import emotion_data, encoder, finetuning, fit, pretrain_data

from ser_personal.calibration.few_labels import labelled_moments
from ser_personal.calibration.pldc import PLDCSettings
from ser_personal.encoder.base import weights_fingerprint
from ser_personal.errors import UserError
from ser_personal.pretrain.adapt import Adapted, SpeakerAdaptation
from ser_personal.recognition.bundle import Bundle
from ser_personal.recognition.network import EmotionNetwork
from ser_personal.recognition.profiles import SpeakerProfile, SpeakerProfiles
from ser_personal.recognition.recognizer import EmotionRecognizer
from ser_personal.speakers.representation import SpeakerQuery

NEW = "9"


def arrays_of(profile):
    return np.concatenate([array.ravel() for array in profile.arrays().values()])


@given(st.integers(0, 10_000), st.integers(0, 6), st.integers(1, 6))
def test_moments_are_those_of_all_utterances_however_they_were_merged(seed, first, second):
    rng = np.random.default_rng(seed)
    vectors, predictions = rng.normal(size=(first + second, 3)), rng.normal(4, 1, size=(first + second, 2))
    labels = np.where(rng.random((first + second, 2)) < 0.5, rng.uniform(1, 7, size=(first + second, 2)), np.nan)
    parts = [SpeakerProfile.empty(3, 2), SpeakerProfile.empty(3, 2)]
    for row, utterance in enumerate(zip(vectors, predictions, labels, strict=True)):
        parts[row >= first] = parts[row >= first].add(*utterance)
    profile = parts[0].merge(parts[1])
    assert profile.utterances == first + second
    np.testing.assert_allclose(profile.vector, vectors.mean(axis=0), atol=1e-12)
    np.testing.assert_allclose(profile.predictions.mean, predictions.mean(axis=0), atol=1e-12)
    np.testing.assert_allclose(profile.predictions.std, predictions.std(axis=0), atol=1e-7)
    labelled = labelled_moments(predictions, labels)
    for kept, expected in zip(vars(profile.labelled).values(), vars(labelled).values(), strict=True):
        np.testing.assert_allclose(kept, expected, atol=1e-9)


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
    assert {file.name for file in path.parent.iterdir()} - {f".{path.name}.lock"} == {path.name}


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
def test_only_the_owner_reads_them(tmp_path, some_profile):
    path = tmp_path / "profiles.safetensors"
    SpeakerProfiles("model", path).update({"anna": some_profile()})
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o644)
    SpeakerProfiles.open("model", path).update({"ben": some_profile()})
    assert path.stat().st_mode & 0o777 == 0o600


def test_what_others_changed_meanwhile_stays(tmp_path, some_profile):
    path = tmp_path / "profiles.safetensors"
    one, other = SpeakerProfiles.open("model", path), SpeakerProfiles.open("model", path)
    one.update({"anna": some_profile(0), "ben": some_profile(1)})
    other.update({"carla": some_profile(2)})
    one.delete("ben")
    rng = np.random.default_rng(0)
    utterance = (rng.normal(size=some_profile().vector_sum.shape), np.array([4.0, 5.0]), None)
    empty = SpeakerProfile.empty(len(utterance[0]), 2)
    other.extend("anna", empty, [utterance])
    one.extend("anna", empty, [utterance])
    one.update({"ben": some_profile(1), "carla": some_profile(3)}, enrolled_only=True)
    assert one.ids == SpeakerProfiles.open("model", path).ids == ["anna", "carla"]
    expected = some_profile(0).add(*utterance).add(*utterance)
    np.testing.assert_array_equal(arrays_of(one["anna"]), arrays_of(expected))
    np.testing.assert_array_equal(arrays_of(one["carla"]), arrays_of(some_profile(3)))
    path.unlink()
    one.reload()
    assert one.ids == []


def test_a_folder_is_no_file_of_profiles(tmp_path):
    line = f"is a folder, and profiles are kept in a file. Give a file in it, such as {tmp_path}/people.safetensors"
    with pytest.raises(UserError, match=line):
        SpeakerProfiles.open("model", tmp_path)


def test_two_ids_of_one_person_become_one(some_profile):
    profiles = SpeakerProfiles("model")
    profiles.update({"anna": some_profile(0), "anna b": some_profile(1)})
    expected = some_profile(0).merge(some_profile(1))
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
    with pytest.raises(UserError, match="not a complete file"):
        SpeakerProfiles.open("model", path)
    save_file({"a": np.zeros(1)}, path)
    with pytest.raises(UserError, match="no speaker profiles"):
        SpeakerProfiles.open("model", path)
    save_file({}, path, {"format": "ser_personal.speaker_profiles", "version": "1"})
    with pytest.raises(UserError, match="of format 1; this version reads format 3"):
        SpeakerProfiles.open("model", path)


def test_profiles_from_before_labels_were_kept_have_none(tmp_path, some_profile):
    path = tmp_path / "p.safetensors"
    arrays = {f"0.{name}": array for name, array in some_profile().arrays().items() if "labelled" not in name}
    metadata = {"format": "ser_personal.speaker_profiles", "version": "2", "model": "model", "speaker_ids": '["anna"]'}
    save_file(arrays, path, metadata)
    profile = SpeakerProfiles.open("model", path)["anna"]
    assert profile.labelled.count.tolist() == [[0, 0]] * 3
    np.testing.assert_array_equal(profile.predictions.m2, some_profile().predictions.m2)


@pytest.fixture(scope="module")
def adapted(papt_checkpoint, synthetic_corpus, synthetic_pseudo_labels, tmp_path_factory):
    """Speakers of the validation set adapted to PAPT."""
    folder = tmp_path_factory.mktemp("adapted")
    module = SpeakerAdaptation(str(papt_checkpoint), encoder=encoder())
    new = pretrain_data(synthetic_corpus, synthetic_pseudo_labels, splits=["validation"], unseen_splits=[])
    fit(module, new, folder, max_steps=4).save_checkpoint(folder / "adapted.ckpt")
    return str(folder / "adapted.ckpt")


@pytest.fixture
def bundle(papt_checkpoint, synthetic_corpus):
    module = finetuning(papt_checkpoint=str(papt_checkpoint))
    module.build(emotion_data(synthetic_corpus))
    torch.nn.init.normal_(module.personalized.speakers.fc.weight)
    network = EmotionNetwork(module.personalized, module.interpreter).eval()
    return Bundle(
        network, weights_fingerprint(network.state_dict()), ("arousal", "valence"), (1, 7), 250_000, PLDCSettings()
    )


@pytest.fixture
def clip(synthetic_corpus):
    return next(emotion_data(synthetic_corpus).training_audio(1))


def recognizer(bundle, profiles=None):
    return EmotionRecognizer(bundle, calibration="none", profiles=profiles, device="cpu")


def test_an_enrolled_speaker_is_recognised_with_the_own_embedding(bundle, adapted, clip):
    ours = recognizer(bundle)
    stranger = ours.predict(clip, NEW)
    ours.enroll(NEW, clip, adapted=adapted)
    row = Adapted(adapted).rows[NEW]
    np.testing.assert_allclose(ours.profiles[NEW].embedding, row)

    speakers = bundle.network.personalized.speakers
    embedded = speakers(SpeakerQuery([ours.profiles.id_in_network(NEW), None]))
    torch.testing.assert_close(embedded[0], speakers.fc(row))
    torch.testing.assert_close(embedded[1], speakers.fc(speakers.embedding.weight).mean(0))
    assert (ours.predict(clip, NEW)["arousal_raw"] - stranger["arousal_raw"]).abs().max() > 1e-6
    other = ours.predict(clip, "somebody else")
    np.testing.assert_allclose(other["arousal_raw"], stranger["arousal_raw"], atol=1e-6)


def test_the_embedding_is_saved_and_forgotten_with_the_profile(bundle, adapted, clip, tmp_path):
    path = tmp_path / "profiles.safetensors"
    ours = recognizer(bundle, SpeakerProfiles.open(bundle.model, path))
    ours.enroll(NEW, clip, adapted=adapted)
    ours.enroll("plain", clip)
    again = SpeakerProfiles.open(bundle.model, path)
    np.testing.assert_allclose(again[NEW].embedding, ours.profiles[NEW].embedding)
    assert again["plain"].embedding is None
    assert again[NEW].utterances == ours.profiles[NEW].utterances > 0
    again.delete(NEW)
    assert again.id_in_network(NEW) is None


def test_what_can_not_be_enrolled_so(bundle, adapted, clip):
    ours = recognizer(bundle)
    with pytest.raises(UserError, match=r"adapted\.ckpt: holds no row of speaker anna\. Adapt on this speaker's"):
        ours.enroll("anna", clip, adapted=adapted)
    ours.enroll(NEW, clip)
    with pytest.raises(UserError, match=f"speaker {NEW}: has utterances in the profile that were recognised without"):
        ours.enroll(NEW, clip, adapted=adapted)


def test_a_profile_that_another_program_changed_is_not_replaced(some_profile, tmp_path):
    path = tmp_path / "people.safetensors"
    one = SpeakerProfiles.open("model", path)
    one.update({"anna": some_profile(0), "ben": some_profile(1)})
    other = SpeakerProfiles.open("model", path)
    other.update({"anna": some_profile(2)})
    with pytest.raises(UserError, match="another program has changed the profile of anna meanwhile"):
        one.update({"anna": some_profile(3)}, enrolled_only=True)
    one.update({"ben": some_profile(4)})
    saved = SpeakerProfiles.open("model", path)
    assert saved["anna"].equals(some_profile(2))
    assert saved["ben"].equals(some_profile(4))
