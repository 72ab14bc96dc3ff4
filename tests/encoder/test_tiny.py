from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_networks import padded_noise

from ser_personal.audio import num_frames
from ser_personal.encoder.hubert import HubertEncoder, TinyEncoder

LENGTHS = torch.tensor([400, 719, 720, 5000, 9001])


@pytest.fixture
def encoder() -> TinyEncoder:
    torch.manual_seed(0)
    tiny = TinyEncoder()
    tiny.build()
    rng = np.random.default_rng(0)
    tiny.fit_front_end(lambda _: iter([rng.normal(size=8000).astype(np.float32)]))
    return tiny


def test_size(encoder):
    assert 0.19e6 < sum(weight.numel() for weight in encoder.parameters()) < 0.23e6
    assert encoder.dim == 64


def test_as_many_frames_as_hubert_makes(encoder):
    output = encoder(padded_noise(LENGTHS), LENGTHS)
    assert output.frames.shape == (5, num_frames(9001), 64)
    assert output.frame_mask.sum(1).tolist() == [num_frames(length) for length in LENGTHS.tolist()]


@torch.no_grad()
def test_energy_reaches_the_transformer(encoder):
    inputs, length = [], torch.tensor([5000])
    encoder.network.encoder.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    quiet, loud = 0.1 * padded_noise(length), padded_noise(length)
    for waveforms in (quiet, loud):
        encoder(waveforms, length)
    # no norm in between: ten times the amplitude is log 100 more in every bin
    louder_by = torch.full((40,), 100.0).log() / encoder.front_end.std
    wanted = encoder.network.feature_projection.projection.weight @ louder_by
    torch.testing.assert_close(inputs[1] - inputs[0], wanted.expand_as(inputs[0]), atol=1e-4, rtol=1e-3)


def test_a_clip_has_the_same_frames_alone_and_padded(encoder):
    waveforms = padded_noise(LENGTHS)
    batched = encoder(waveforms, LENGTHS).frames
    for row, length in enumerate(LENGTHS.tolist()):
        alone = encoder(waveforms[row : row + 1, :length], LENGTHS[row : row + 1]).frames[0]
        torch.testing.assert_close(batched[row, : len(alone)], alone, atol=1e-5, rtol=1e-4)


def test_nothing_is_learnt_from_padding(encoder):
    lengths = torch.tensor([9001, 5000])
    noise = torch.randn(2, 9001)
    gradients = []
    for padding in (0.0, 1.0):
        encoder.zero_grad()
        waveforms = torch.where(torch.arange(9001) < lengths[:, None], noise, padding * noise)
        output = encoder(waveforms, lengths)
        output.frames[output.frame_mask].square()[:, 0].sum().backward()
        gradients.append(encoder.network.feature_projection.projection.weight.grad.clone())
    torch.testing.assert_close(gradients[1], gradients[0], atol=1e-4, rtol=1e-4)
    assert gradients[0].abs().max() > 0


def test_every_parameter_that_a_masked_batch_needs_learns(encoder):
    time_mask = torch.arange(num_frames(9001)).expand(5, -1) % 2 == 0
    encoder(padded_noise(LENGTHS), LENGTHS, time_mask=time_mask).frames[..., 0].square().sum().backward()
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in encoder.parameters())


def test_every_layer_can_teach(encoder):
    frames = [encoder.hidden_states(padded_noise(LENGTHS), LENGTHS, layer).frames for layer in range(1, 5)]
    assert all(layer.shape == (5, num_frames(9001), 64) for layer in frames)
    assert not torch.equal(frames[0], frames[3])


def test_a_plain_encoder_rebuilds_it_from_config_with_its_statistics(encoder):
    rebuilt = HubertEncoder("nowhere/at-all")
    rebuilt.build(encoder.config)
    rebuilt.load_state_dict(encoder.state_dict())
    waveforms = padded_noise(LENGTHS)
    torch.testing.assert_close(rebuilt(waveforms, LENGTHS).frames, encoder(waveforms, LENGTHS).frames)


def test_frozen_layers():
    encoder = TinyEncoder(freeze_layers=2)
    encoder.build()
    learning = {name for name, weight in encoder.named_parameters() if weight.requires_grad}
    kept = ("masked_spec_embed", "encoder.layer_norm", "encoder.layers.2", "encoder.layers.3")
    assert learning == {
        name for name, _ in encoder.named_parameters() if name.startswith(tuple(f"network.{part}" for part in kept))
    }


def test_shape_follows_the_arguments():
    encoder = TinyEncoder(dim=16, layers=1, heads=2, feed_forward_dim=8, num_mels=20)
    encoder.build()
    assert encoder(torch.randn(1, 720), torch.tensor([720])).frames.shape == (1, 2, 16)
    assert len(encoder.network.encoder.layers) == 1
