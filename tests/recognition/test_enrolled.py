from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_models import emotion_data, encoder, finetuning, fit, papt, pretrain_data

from ser_personal.calibration.pldc import PLDCSettings
from ser_personal.encoder.base import weights_fingerprint
from ser_personal.errors import UserError
from ser_personal.pretrain.adapt import AdaptedRows, SpeakerAdaptation
from ser_personal.recognition.bundle import Bundle
from ser_personal.recognition.network import EmotionNetwork
from ser_personal.recognition.profiles import SpeakerProfiles
from ser_personal.recognition.recognizer import EmotionRecognizer
from ser_personal.speakers.representation import SpeakerQuery

NEW = "9"


@pytest.fixture(scope="module")
def adapted(synthetic_corpus, synthetic_pseudo_labels, tmp_path_factory):
    """PAPT, and speakers of the validation set adapted to it."""
    folder = tmp_path_factory.mktemp("adapted")
    data = pretrain_data(synthetic_corpus, synthetic_pseudo_labels)
    fit(papt(), data, folder, max_steps=4).save_checkpoint(folder / "papt.ckpt")
    module = SpeakerAdaptation(str(folder / "papt.ckpt"), encoder=encoder())
    new = pretrain_data(synthetic_corpus, synthetic_pseudo_labels, splits=["validation"], unseen_splits=[])
    fit(module, new, folder, max_steps=4).save_checkpoint(folder / "adapted.ckpt")
    return folder


@pytest.fixture
def bundle(adapted, synthetic_corpus):
    module = finetuning(papt_checkpoint=str(adapted / "papt.ckpt"))
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


def test_an_enrolled_speaker_is_heard_with_the_own_embedding(bundle, adapted, clip):
    ours = recognizer(bundle)
    stranger = ours.predict(clip, NEW)
    ours.enroll(NEW, clip, adapted=str(adapted / "adapted.ckpt"))
    row = AdaptedRows.read(str(adapted / "adapted.ckpt")).rows[NEW]
    np.testing.assert_allclose(ours.profiles[NEW].embedding, row)

    speakers = bundle.network.personalized.speakers
    embedded = speakers(SpeakerQuery([ours.profiles.name_in_network(NEW), None]))
    torch.testing.assert_close(embedded[0], speakers.fc(row))
    torch.testing.assert_close(embedded[1], speakers.fc(speakers.embedding.weight).mean(0))
    assert (ours.predict(clip, NEW)["arousal_raw"] - stranger["arousal_raw"]).abs().max() > 1e-6
    other = ours.predict(clip, "somebody else")
    np.testing.assert_allclose(other["arousal_raw"], stranger["arousal_raw"], atol=1e-6)


def test_the_embedding_is_saved_and_forgotten_with_the_profile(bundle, adapted, clip, tmp_path):
    path = tmp_path / "profiles.safetensors"
    ours = recognizer(bundle, SpeakerProfiles.open(bundle.model, path))
    ours.enroll(NEW, clip, adapted=str(adapted / "adapted.ckpt"))
    ours.enroll("plain", clip)
    again = SpeakerProfiles.open(bundle.model, path)
    np.testing.assert_allclose(again[NEW].embedding, ours.profiles[NEW].embedding)
    assert again["plain"].embedding is None
    assert again[NEW].utterances == ours.profiles[NEW].utterances > 0
    again.delete(NEW)
    assert again.name_in_network(NEW) is None


def test_what_can_not_be_enrolled_so(bundle, adapted, clip):
    ours = recognizer(bundle)
    with pytest.raises(UserError, match=r"adapted\.ckpt: holds no row of speaker anna\. Adapt on this speaker's"):
        ours.enroll("anna", clip, adapted=str(adapted / "adapted.ckpt"))
    ours.enroll(NEW, clip)
    with pytest.raises(UserError, match=f"speaker {NEW}: has been heard without this embedding"):
        ours.enroll(NEW, clip, adapted=str(adapted / "adapted.ckpt"))
