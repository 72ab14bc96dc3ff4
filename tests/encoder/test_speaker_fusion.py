import numpy as np
import pytest
import tiny_models
import torch
from garbage import refused
from tiny_models import built, padded_noise, speakers_alone

from ser_personal.audio import num_frames
from ser_personal.encoder.base import mean_pool
from ser_personal.encoder.hubert import HubertEncoder
from ser_personal.encoder.personalized import PersonalizedEncoder
from ser_personal.encoder.speaker_fusion import Personalization, fuse, make_fusion
from ser_personal.speakers.embedding import SpeakerEmbedding
from ser_personal.speakers.features import SpeakerEmbedder
from ser_personal.types import EncoderOutput, SpeechBatch

LENGTHS = torch.tensor([8000, 5000])
EQUAL = torch.tensor([8000, 8000])
DIM = 16
NAMES = ("none", "first", "prefix", "concat", "last")


@pytest.fixture
def encoder(hubert_folder: str) -> HubertEncoder:
    return built(HubertEncoder, hubert_folder)


@pytest.fixture
def speaker_embedding() -> torch.Tensor:
    return torch.randn(2, DIM, generator=torch.Generator().manual_seed(2))


@torch.no_grad()
@pytest.mark.parametrize("name", NAMES)
def test_e_s_enters_as_the_paper_says(encoder, speaker_embedding, name):
    read = []
    encoder.network.encoder.register_forward_pre_hook(lambda _, args: read.append(args[0].clone()))
    plain = encoder(padded_noise(LENGTHS), LENGTHS).frames
    # what the positional convolution reads where nothing is fused
    hidden = read[0]
    prefixed = torch.cat([speaker_embedding[:, None], hidden], dim=1)

    def transformed(sequence, ahead=0):
        mask = torch.arange(num_frames(8000) + ahead) < num_frames(LENGTHS)[:, None] + ahead
        return encoder.network.encoder(sequence, attention_mask=mask).last_hidden_state[:, ahead:]

    added = plain + speaker_embedding[:, None]  # where concat starts
    wanted = {"none": plain, "concat": added, "last": added, "prefix": transformed(prefixed, ahead=1)}
    wanted["first"] = transformed(hidden + speaker_embedding[:, None])
    exact = {"atol": 1e-5, "rtol": 1e-4} if name == "concat" else {"atol": 0, "rtol": 0}
    of_both = Personalization(make_fusion(name, DIM), speaker_embedding)
    output = encoder(padded_noise(LENGTHS), LENGTHS, personalization=of_both)
    assert output.frame_mask.sum(1).tolist() == num_frames(LENGTHS).tolist()
    batched = output.frames
    torch.testing.assert_close(batched, wanted[name], **exact)
    of_one = Personalization(make_fusion(name, DIM), speaker_embedding[1:])
    alone = encoder(padded_noise(LENGTHS)[1:, :5000], LENGTHS[1:], personalization=of_one)
    torch.testing.assert_close(batched[1, : num_frames(5000)], alone.frames[0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["first", "concat", "last"])
def test_fixed_features_are_added_as_large_as_the_frame(name):
    frames, e_s = 0.2 * torch.randn(2, 3, 4), torch.randn(2, 4)
    frames[1, 2] = 0
    frames.requires_grad_()
    personalized = fuse(frames, Personalization(make_fusion(name, 4, fixed=True), e_s))
    for row in range(2):
        for frame in range(3):
            size = (sum(value**2 for value in frames[row, frame].tolist()) / 4) ** 0.5
            torch.testing.assert_close(personalized[row, frame], frames[row, frame] + size * e_s[row])
    personalized.sum().backward()
    torch.testing.assert_close(frames.grad, torch.ones_like(frames))


@torch.no_grad()
def test_masked_frames_are_replaced_by_the_mask_embedding_and_first_adds_to_them_too(encoder, speaker_embedding):
    time_mask = torch.rand(2, num_frames(8000), generator=torch.Generator().manual_seed(0)) < 0.5
    read = []
    encoder.network.encoder.register_forward_pre_hook(lambda _, args: read.append(args[0]))
    first = Personalization(make_fusion("first", DIM), speaker_embedding)
    encoder(padded_noise(EQUAL), EQUAL)
    assert encoder(padded_noise(EQUAL), EQUAL, time_mask, first).time_mask is time_mask
    replaced = torch.where(time_mask[..., None], encoder.network.masked_spec_embed, read[0])
    torch.testing.assert_close(read[1], replaced + speaker_embedding[:, None])


def test_concat_projects_frame_beside_embedding():
    fusion = make_fusion("concat", 3)
    weight, bias = map(torch.nn.init.normal_, (fusion.projection.weight, fusion.projection.bias))
    frames, e_s = torch.randn(2, 4, 3), torch.randn(2, 3)
    beside = torch.cat([frames, e_s[:, None].repeat(1, 4, 1)], dim=-1)
    torch.testing.assert_close(fusion.after_transformer(frames, e_s), beside @ weight.T + bias)


def batch(*speaker_ids: str | None) -> SpeechBatch:
    audio = {"waveforms": padded_noise(LENGTHS), "num_samples": LENGTHS}
    return SpeechBatch(**audio, speaker_ids=list(speaker_ids), indices=torch.arange(2))


def personalized(fusion: str) -> PersonalizedEncoder:
    """A built network whose e_s isn't zero any more."""
    torch.manual_seed(0)
    network = PersonalizedEncoder(tiny_models.encoder(), SpeakerEmbedding(8), fusion)
    network.build(speakers_alone("anna", "bela"))
    if fusion != "none":
        torch.nn.init.normal_(network.speakers.fc.weight)
    return network


@torch.no_grad()
@pytest.mark.parametrize("fusion", NAMES)
def test_frames_are_the_encoders_with_e_s_fused_in_and_a_description_rebuilds_the_network(fusion):
    network = personalized(fusion)
    output = network(batch("bela", "anna")).frames
    e_s = torch.zeros(2, network.dim) if fusion == "none" else network.speakers(["bela", "anna"])
    personalization = Personalization(make_fusion(fusion, network.dim), e_s)
    wanted = network.encoder(padded_noise(LENGTHS), LENGTHS, personalization=personalization)
    torch.testing.assert_close(output, wanted.frames)
    assert torch.allclose(network(batch("anna", "bela")).frames, output) == (fusion == "none")
    unbuilt = PersonalizedEncoder(HubertEncoder("nowhere/at-all"), SpeakerEmbedding(99), "first")
    for rebuilt, encoder in ((unbuilt, "HubertEncoder"), (personalized("concat"), "TinyEncoder")):
        rebuilt.rebuild(network.describe())
        rebuilt.load_state_dict(network.state_dict())
        assert rebuilt.describe() == network.describe() | {"encoder": encoder}
        torch.testing.assert_close(rebuilt(batch("bela", "anna")).frames, output, atol=0, rtol=0)


@pytest.mark.parametrize("speakers", [SpeakerEmbedding, SpeakerEmbedder])
def test_a_training_set_without_a_known_speaker_is_refused(speakers):
    network = PersonalizedEncoder(tiny_models.encoder(), speakers(), "last")
    line = r"the training set: no known speaker to embed\. .*--model\.fusion none"
    refused(line, network.build, speakers_alone(features=np.zeros((0, 2), np.float32)))


def test_mean_over_real_frames_alone():
    torch.manual_seed(0)
    frames, lengths = torch.randn(4, 7, 4), [7, 2, 1, 0]
    pooled = mean_pool(EncoderOutput(frames, torch.arange(7) < torch.tensor(lengths)[:, None]))
    slow = [[sum(row[:n, d].tolist()) / max(n, 1) for d in range(4)] for row, n in zip(frames, lengths, strict=True)]
    torch.testing.assert_close(pooled, torch.tensor(slow))
