from __future__ import annotations

import numpy as np
import pytest
import torch
import torchaudio
from tiny_networks import NORMS, padded_noise, tiny_network

from ser_personal.audio import num_frames
from ser_personal.encoder.front_end import ConvFrontEnd, LogMelFrontEnd, mfcc_functionals
from ser_personal.errors import UserError

LENGTHS = torch.tensor([6000, 16_000, 401])


def conv_front_end(norm: str = "group", gradient_scale: float = 1.0) -> ConvFrontEnd:
    return ConvFrontEnd(tiny_network("hubert", norm).feature_extractor.conv_layers, gradient_scale)


@pytest.mark.parametrize("norm", NORMS)
def test_a_clip_has_the_same_frames_alone_and_whatever_pads_it(norm):
    front_end, waveforms = conv_front_end(norm), padded_noise(LENGTHS)
    with torch.no_grad():
        batched = front_end(torch.where(torch.arange(16_000) < LENGTHS[:, None], waveforms, 5.0), LENGTHS)
        for row, length in enumerate(LENGTHS.tolist()):
            alone = front_end(waveforms[row : row + 1, :length], LENGTHS[row : row + 1])[0]
            assert len(alone) == num_frames(length)
            torch.testing.assert_close(batched[row, : len(alone)], alone, atol=1e-5, rtol=1e-4)


def test_group_norm_of_transformers_sees_the_padding():
    network, waveforms = tiny_network("hubert", "group"), padded_noise(LENGTHS)
    with torch.no_grad():
        batched = network.feature_extractor(waveforms)[0, :, : num_frames(6000)]
        alone = network.feature_extractor(waveforms[:1, :6000])[0]
    assert (batched - alone).abs().max() > 0.1


@pytest.mark.parametrize("norm", NORMS)
def test_unpadded_frames_are_those_of_transformers(norm):
    network = tiny_network("hubert", norm)
    waveforms = torch.randn(2, 4000)
    with torch.no_grad():
        wanted = network.feature_extractor(waveforms).transpose(1, 2)
        frames = ConvFrontEnd(network.feature_extractor.conv_layers)(waveforms, torch.tensor([4000, 4000]))
    torch.testing.assert_close(frames, wanted, atol=0, rtol=0)


def test_gradient_scale_scales_gradients_and_nothing_else():
    gradients, frames = [], []
    for scale in (1.0, 0.1):
        front_end = conv_front_end(gradient_scale=scale)
        output = front_end(padded_noise(LENGTHS), LENGTHS)
        output.square().sum().backward()
        frames.append(output.detach())
        gradients.append(torch.cat([weight.grad.flatten() for weight in front_end.parameters()]))
    torch.testing.assert_close(frames[1], frames[0])
    torch.testing.assert_close(gradients[1], 0.1 * gradients[0], atol=1e-3, rtol=1e-4)


def test_frozen_convolutions_run_without_autograd():
    front_end = conv_front_end(gradient_scale=0.1)
    assert front_end(padded_noise(LENGTHS), LENGTHS).requires_grad
    with torch.no_grad():
        assert not front_end(padded_noise(LENGTHS), LENGTHS).requires_grad
    front_end.requires_grad_(requires_grad=False)
    assert not front_end(padded_noise(LENGTHS), LENGTHS).requires_grad


def test_log_mel_is_that_of_torchaudio():
    waveforms = padded_noise(LENGTHS)
    wanted = torchaudio.transforms.MelSpectrogram(n_fft=400, hop_length=320, n_mels=40, center=False)(waveforms)
    frames = LogMelFrontEnd(40).features(waveforms, LENGTHS)
    assert frames.shape == (3, num_frames(16_000), 40)
    torch.testing.assert_close(frames, wanted.transpose(1, 2).clamp(min=1e-6).log(), atol=1e-4, rtol=1e-4)


def test_log_mel_stays_in_full_precision_under_autocast():
    front_end, waveforms = LogMelFrontEnd(40), padded_noise(LENGTHS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(
            front_end.features(waveforms, LENGTHS), front_end.features(waveforms, LENGTHS).float()
        )
        frames = front_end(waveforms, LENGTHS)
    torch.testing.assert_close(frames, front_end(waveforms, LENGTHS))


def test_fit_standardises_over_the_training_audio():
    rng = np.random.default_rng(0)
    clips = [(rng.uniform(0.01, 1) * rng.normal(size=length)).astype(np.float32) for length in (400, 3000, 9000)]
    front_end = LogMelFrontEnd(40)
    log_mels = np.concatenate([front_end.features(torch.from_numpy(clip)[None], None)[0].numpy() for clip in clips])
    front_end.fit(clips)
    np.testing.assert_allclose(front_end.mean, log_mels.mean(0, dtype=np.float64), rtol=1e-5)
    np.testing.assert_allclose(front_end.std, log_mels.std(0, dtype=np.float64), rtol=1e-4)
    frames = torch.cat([front_end(torch.from_numpy(clip)[None], torch.tensor([len(clip)]))[0] for clip in clips])
    torch.testing.assert_close(frames.mean(0), torch.zeros(40), atol=1e-4, rtol=0)
    torch.testing.assert_close(frames.std(0, correction=0), torch.ones(40), atol=1e-4, rtol=0)


def test_statistics_are_saved_and_constant_bins_do_not_divide_by_zero():
    fitted, loaded = LogMelFrontEnd(40), LogMelFrontEnd(40)
    fitted.fit([np.zeros(4000, dtype=np.float32)])
    assert fitted.mean.isfinite().all()
    loaded.load_state_dict(fitted.state_dict())
    frames = loaded(padded_noise(LENGTHS), LENGTHS)
    assert frames.isfinite().all()
    torch.testing.assert_close(frames, fitted(padded_noise(LENGTHS), LENGTHS))
    assert set(fitted.state_dict()) == {"mean", "std"}


VALUES = 39


def noise(samples=16_000):
    return (0.01 * np.random.default_rng(0).standard_normal(samples)).astype(np.float32)


def test_ten_decibels_move_only_the_first_coefficient():
    mean, std, *quantiles = (mfcc_functionals(noise() * np.float32(10**0.5)) - mfcc_functionals(noise())).reshape(7, -1)
    louder = np.zeros(VALUES)
    louder[0] = np.log(10) * 23 / np.sqrt(23)  # an orthonormal DCT of 23 mel bins, each 10 dB louder
    for statistic in (mean, *quantiles):
        assert statistic == pytest.approx(louder, abs=1e-2)
    assert std == pytest.approx(np.zeros(VALUES), abs=1e-2)


def test_functionals_of_steady_sound_are_its_frame():
    period = noise(160)  # Kaldi's hop, so that every frame is the same
    mean, std, *quantiles = mfcc_functionals(np.tile(period, 40)).reshape(7, -1)
    assert std == pytest.approx(np.zeros(VALUES), abs=1e-3)
    for statistic in quantiles:
        assert statistic == pytest.approx(mean, abs=1e-3)
    assert mean[13:] == pytest.approx(np.zeros(26), abs=1e-3)


def test_samples_after_the_last_whole_frame_do_not_count():
    assert np.array_equal(mfcc_functionals(noise()[:1039]), mfcc_functionals(noise()[:880]))


def test_shorter_than_a_frame_is_refused():
    with pytest.raises(UserError, match="has 399 samples"):
        mfcc_functionals(noise(399))
