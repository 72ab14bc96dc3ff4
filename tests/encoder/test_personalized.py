from __future__ import annotations

import pytest
import torch
from tiny_networks import padded_noise

from ser_personal.encoder.base import mean_pool
from ser_personal.encoder.fusion import Personalization, make_fusion
from ser_personal.encoder.hubert import HubertEncoder, TinyEncoder
from ser_personal.encoder.personalized import PersonalizedEncoder
from ser_personal.speakers.embedding import SpeakerEmbedding
from ser_personal.types import EncoderOutput, SpeechBatch

LENGTHS = torch.tensor([4000, 2000])
NAMES = ("none", "first", "prefix", "concat", "last")


def batch(*speaker_ids: str | None) -> SpeechBatch:
    return SpeechBatch(
        waveforms=padded_noise(LENGTHS), num_samples=LENGTHS, speaker_ids=list(speaker_ids), indices=torch.arange(2)
    )


def personalized(fusion: str) -> PersonalizedEncoder:
    """A built network whose e_s isn't zero any more."""
    torch.manual_seed(0)
    encoder = TinyEncoder(dim=16, layers=1, heads=2, feed_forward_dim=32)
    network = PersonalizedEncoder(encoder, SpeakerEmbedding(8), fusion)
    network.build(["anna", "bela"])
    if fusion != "none":
        torch.nn.init.normal_(network.speakers.fc.weight)
    return network


@torch.no_grad()
@pytest.mark.parametrize("fusion", NAMES)
def test_frames_are_the_encoders_with_e_s_fused_in_and_a_description_rebuilds_the_network(fusion):
    network = personalized(fusion)
    output = network(batch("bela", "anna")).frames
    personalization = None
    if fusion != "none":
        personalization = Personalization(make_fusion(fusion, network.dim), network.speakers(["bela", "anna"]))
    wanted = network.encoder(padded_noise(LENGTHS), LENGTHS, personalization=personalization)
    torch.testing.assert_close(output, wanted.frames)
    assert torch.allclose(network(batch("anna", "bela")).frames, output) == (fusion == "none")
    assert bool(network.describe()["speakers"]) == bool([*network.speakers.parameters()]) == (fusion != "none")

    network.pretrained_on = frozenset({"aaaaaaaa", "bbbbbbbb"})
    unbuilt = PersonalizedEncoder(HubertEncoder("nowhere/at-all"), SpeakerEmbedding(99), "first")
    assert not unbuilt.is_built
    for rebuilt, encoder in ((unbuilt, "HubertEncoder"), (personalized("concat"), "TinyEncoder")):
        rebuilt.rebuild(network.describe())
        rebuilt.load_state_dict(network.state_dict())
        assert rebuilt.is_built
        assert rebuilt.describe() == network.describe() | {"encoder": encoder}
        assert rebuilt.pretrained_on == network.pretrained_on
        speakers = batch("bela", "stranger")
        torch.testing.assert_close(rebuilt(speakers).frames, network(speakers).frames, atol=0, rtol=0)


def test_mean_over_real_frames_alone():
    torch.manual_seed(0)
    frames, lengths = torch.randn(4, 7, 4), [7, 2, 1, 0]
    pooled = mean_pool(EncoderOutput(frames, torch.arange(7) < torch.tensor(lengths)[:, None]))
    slow = [
        [sum(row[:n, column].tolist()) / max(n, 1) for column in range(4)]
        for row, n in zip(frames, lengths, strict=True)
    ]
    torch.testing.assert_close(pooled, torch.tensor(slow))
