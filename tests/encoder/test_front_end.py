import numpy as np
import pytest
import torch
import torchaudio
from refusals import refused
from tiny_models import NORMS, padded_noise, tiny_network

from ser_personal.audio import num_frames
from ser_personal.encoder.hubert import ConvFrontEnd
from ser_personal.encoder.raw import LogMelFrontEnd, mfcc_functionals

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
    with torch.no_grad():
        assert not front_end(padded_noise(LENGTHS), LENGTHS).requires_grad
    front_end.requires_grad_(requires_grad=False)
    assert not front_end(padded_noise(LENGTHS), LENGTHS).requires_grad


def test_log_mel_is_that_of_torchaudio_under_autocast_too():
    front_end, waveforms = LogMelFrontEnd(40), padded_noise(LENGTHS)
    mel = torchaudio.transforms.MelSpectrogram(n_fft=400, hop_length=320, n_mels=40, center=False)(waveforms)
    wanted = mel.transpose(1, 2).clamp(min=1e-6).log()
    assert wanted.shape == (3, num_frames(16_000), 40)
    torch.testing.assert_close(front_end.features(waveforms, LENGTHS), wanted, atol=1e-4, rtol=1e-4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(front_end.features(waveforms, LENGTHS), wanted, atol=1e-4, rtol=1e-4)


def test_fit_standardises_over_the_training_audio():
    rng = np.random.default_rng(0)
    clips = [(rng.uniform(0.01, 1) * rng.normal(size=length)).astype(np.float32) for length in (400, 3000, 9000)]
    front_end, limits = LogMelFrontEnd(40), []
    log_mels = np.concatenate([front_end.features(torch.from_numpy(clip)[None], None)[0].numpy() for clip in clips])
    front_end.fit(lambda limit: limits.append(limit) or iter(clips))
    assert limits == [500]
    np.testing.assert_allclose(front_end.mean, log_mels.mean(0, dtype=np.float64), rtol=1e-5)
    np.testing.assert_allclose(front_end.std, log_mels.std(0, dtype=np.float64), rtol=1e-4)
    silence = LogMelFrontEnd(40)
    silence.fit(lambda _: iter([np.zeros(4000, dtype=np.float32)]))
    assert silence(padded_noise(LENGTHS), LENGTHS).isfinite().all()


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
    refused("has 399 samples", mfcc_functionals, noise(399))
