from __future__ import annotations

import pytest
import torch
from tiny_networks import padded_noise

from ser_personal.encoder.base import mean_pool
from ser_personal.encoder.fusion import Personalization, make_fusion
from ser_personal.encoder.hubert import HubertEncoder, TinyEncoder
from ser_personal.encoder.personalized import PersonalizedEncoder
from ser_personal.speakers.embedding import SpeakerEmbedding
from ser_personal.speakers.representation import SpeakerQuery, SpeakerSet
from ser_personal.types import EncoderOutput, SpeechBatch

LENGTHS = torch.tensor([4000, 2000])
NAMES = ("none", "first", "prefix", "concat", "last")


def batch(*speaker_ids: str | None) -> SpeechBatch:
    return SpeechBatch(
        waveforms=padded_noise(LENGTHS), num_samples=LENGTHS, speaker_ids=list(speaker_ids), indices=torch.arange(2)
    )


def personalized(fusion: str = "last") -> PersonalizedEncoder:
    """A built network whose e_s isn't zero any more."""
    torch.manual_seed(0)
    encoder = TinyEncoder(dim=16, layers=1, heads=2, feed_forward_dim=32)
    network = PersonalizedEncoder(encoder, SpeakerEmbedding(8), fusion)
    network.build(SpeakerSet(["anna", "bela"]))
    if fusion != "none":
        torch.nn.init.normal_(network.speakers.fc.weight)
    return network


@pytest.mark.parametrize("fusion", NAMES)
def test_frames_are_the_encoders_with_e_s_fused_in(fusion):
    network = personalized(fusion)
    output = network(batch("bela", "anna"))
    personalization = None
    if fusion != "none":
        e_s = network.speakers(SpeakerQuery(["bela", "anna"]))
        personalization = Personalization(make_fusion(fusion, network.dim), e_s)
    wanted = network.encoder(padded_noise(LENGTHS), LENGTHS, personalization=personalization)
    torch.testing.assert_close(output.frames, wanted.frames)
    same = torch.allclose(network(batch("anna", "bela")).frames, output.frames)
    assert same == (fusion == "none")


def test_without_fusion_there_is_no_table():
    network = personalized("none")
    assert network.describe()["speakers"] is None
    assert not list(network.speakers.parameters())
    assert network(batch("stranger", None)).frames.isfinite().all()


@torch.no_grad()
@pytest.mark.parametrize("fusion", NAMES)
def test_a_description_rebuilds_the_network(fusion):
    network = personalized(fusion)
    network.pretrained_on = frozenset({"aaaaaaaa", "bbbbbbbb"})
    rebuilt = PersonalizedEncoder(HubertEncoder("nowhere/at-all"), SpeakerEmbedding(99), "first")
    assert not rebuilt.is_built
    rebuilt.rebuild(network.describe())
    rebuilt.load_state_dict(network.state_dict())
    assert rebuilt.is_built
    assert rebuilt.describe() == network.describe() | {"encoder": "HubertEncoder"}
    assert rebuilt.pretrained_on == network.pretrained_on
    speakers = batch("bela", "stranger")
    torch.testing.assert_close(rebuilt(speakers).frames, network(speakers).frames, atol=0, rtol=0)


def test_a_built_network_becomes_what_is_described():
    network, described = personalized("concat"), personalized("first")
    network.rebuild(described.describe())
    network.load_state_dict(described.state_dict())
    assert network.describe() == described.describe()


def test_mean_over_real_frames_alone():
    torch.manual_seed(0)
    frames, lengths = torch.randn(4, 7, 4), [7, 2, 1, 0]
    frame_mask = torch.arange(7) < torch.tensor(lengths)[:, None]
    pooled = mean_pool(EncoderOutput(frames, frame_mask))
    for row, length in enumerate(lengths):
        for column in range(4):
            slow = sum(frames[row, t, column].item() for t in range(length)) / max(length, 1)
            assert abs(pooled[row, column].item() - slow) < 1e-6
