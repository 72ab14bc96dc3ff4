from functools import partial

import pytest
import torch
from garbage import refused
from tiny_models import built, learning, padded_noise, tiny_whisper
from transformers import WhisperFeatureExtractor, WhisperModel

from ser_personal.encoder.hubert import HubertEncoder
from ser_personal.encoder.hugging_face import LoRA
from ser_personal.encoder.speaker_fusion import Personalization, make_fusion
from ser_personal.encoder.whisper import WhisperEncoder

LENGTHS = torch.tensor([24_000, 399, 16_001, 320])
whisper = partial(built, WhisperEncoder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("whisper")
    tiny_whisper(seconds=2).save_pretrained(path)
    return str(path)


@torch.no_grad()
@pytest.mark.parametrize("weighted", [False, True])
def test_frames_of_real_audio_are_the_public_models_in_a_batch_and_alone(folder, weighted):
    encoder, waveforms = whisper(folder, weighted_layers=weighted), padded_noise(LENGTHS)
    public, extractor = WhisperModel.from_pretrained(folder).eval(), WhisperFeatureExtractor(chunk_length=2)
    # what lies behind an utterance's end doesn't count
    batched = encoder(torch.where(torch.arange(24_000) < LENGTHS[:, None], waveforms, 7.0), LENGTHS)
    assert batched.frame_mask.sum(1).tolist() == [75, 2, 51, 1]
    for row, length in enumerate(LENGTHS.tolist()):
        audio = waveforms[row, :length]
        features = extractor(audio.numpy(), sampling_rate=16_000, return_tensors="pt", return_attention_mask=True)
        theirs = public.encoder(features["input_features"], output_hidden_states=True)
        states = torch.stack([*theirs.hidden_states[:-1], theirs.last_hidden_state])
        # transformers' own count: mel frames that begin in the audio, every other one of them
        real = -(-int(features["attention_mask"].sum()) // 2)
        wanted = (states.mean(0) if weighted else theirs.last_hidden_state)[0, :real]
        alone = encoder(audio[None], LENGTHS[row : row + 1]).frames[0]
        torch.testing.assert_close(alone, wanted, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(batched.frames[row, batched.frame_mask[row]], alone, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_of_longer_audio_what_fits_is_encoded(folder):
    encoder, lengths = whisper(folder), torch.tensor([40_000])
    waveforms = padded_noise(lengths)
    cut = encoder(waveforms[:, :32_000], torch.tensor([32_000]))
    with pytest.warns(UserWarning, match="Whisper takes the first 2 s"):
        longer = encoder(waveforms, lengths)
    torch.testing.assert_close(longer.frames, cut.frames, atol=0, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("fusion", ["first", "prefix", "last"])
def test_speaker_embeddings_enter(folder, fusion):
    encoder, waveforms = whisper(folder), padded_noise(LENGTHS)
    enters = Personalization(make_fusion(fusion, 16), torch.randn(4, 16))
    plain, changed = encoder(waveforms, LENGTHS), encoder(waveforms, LENGTHS, personalization=enters)
    assert changed.frames.shape == plain.frames.shape
    assert not torch.allclose(changed.frames, plain.frames, atol=1e-5, rtol=0)


def test_it_is_frozen_unless_layers_are_named(folder):
    assert learning(whisper(folder)) == set()
    assert learning(whisper(folder, weighted_layers=True)) == {"layer_weights"}
    names = learning(whisper(folder, freeze_layers=1))
    assert "network.layers.1.fc1.weight" in names
    assert not any(name.startswith(("network.layers.0.", "network.conv", "network.embed")) for name in names)
    encoder = whisper(folder, freeze_layers=0, gradient_checkpointing=True).train()
    encoder(padded_noise(LENGTHS), LENGTHS).frames[..., 0].square().sum().backward()
    assert all(weight.grad is not None for weight in encoder.parameters() if weight.requires_grad)
    refused("freeze_layers: 3 is out of range", whisper, folder, freeze_layers=3)


def test_adapters_learn_on_the_frozen_encoder(folder):
    pytest.importorskip("peft", reason="the extra lora isn't installed")
    encoder = whisper(folder, LoRA(rank=2)).train()
    assert len(learning(encoder)) == 8
    assert all("lora_" in name for name in learning(encoder))


def test_what_it_is_not(folder, network_folders):
    refused("is of type hubert, which .* Use one of whisper", whisper, str(network_folders["hubert", "layer"]))
    refused(r"is of type whisper, which this encoder can't load\. Use one of hubert", HubertEncoder(folder).build)
