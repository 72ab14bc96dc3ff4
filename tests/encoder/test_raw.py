from contextlib import nullcontext

import numpy as np
import pytest
import torch
import torchaudio
from garbage import refused
from tiny_models import padded_noise

from ser_personal.audio import num_frames
from ser_personal.encoder.base import Encoder, mean_pool
from ser_personal.encoder.hubert import TinyEncoder
from ser_personal.encoder.personalized import saved_encoder
from ser_personal.encoder.raw import CachedFeatures, LogMelEncoder, LogMelFrontEnd, MFCCEncoder, mfcc_functionals
from ser_personal.encoder.speaker_fusion import Personalization, make_fusion
from ser_personal.types import CachedBatch, FeatureSource, SpeechBatch

LENGTHS = torch.tensor([9_000, 16_000, 6_000])
KINDS = [(LogMelEncoder, 80), (MFCCEncoder, 39)]


def clips() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    times = np.arange(16_000) / 16_000
    return [
        (0.3 * np.sin(2 * np.pi * (120 + 40 * k) * times) + 0.02 * rng.normal(size=16_000)).astype(np.float32)[:length]
        for k, length in enumerate(LENGTHS.tolist())
    ]


def padded() -> torch.Tensor:
    return torch.nn.utils.rnn.pad_sequence([torch.from_numpy(clip) for clip in clips()], batch_first=True)


def built(kind: type[Encoder]) -> Encoder:
    encoder = kind()
    encoder.build()
    encoder.fit_front_end(lambda limit: iter(clips()[:limit]))
    return encoder


@pytest.mark.parametrize(("kind", "dim"), KINDS)
def test_frames_are_standardised_whatever_the_batch_and_come_back(kind: type[Encoder], dim: int) -> None:
    encoder = built(kind)
    output = encoder(padded(), LENGTHS)
    real = output.frames[output.frame_mask]
    assert encoder.dim == real.shape[1] == dim
    assert torch.allclose(real.mean(0), torch.zeros(dim), atol=1e-2)
    varied = real.std(0, correction=0) > 0.5
    assert torch.allclose(real.std(0, correction=0)[varied], torch.ones(int(varied.sum())), atol=1e-2)
    assert output.frame_mask.sum(1).tolist() == num_frames(LENGTHS).tolist()
    last = Personalization(make_fusion("last", dim), torch.ones(3, dim))
    torch.testing.assert_close(encoder(padded(), LENGTHS, personalization=last).frames, output.frames + 1)
    for row, clip in enumerate(clips()):
        alone = encoder(torch.from_numpy(clip)[None], LENGTHS[row : row + 1]).frames[0]
        torch.testing.assert_close(output.frames[row][output.frame_mask[row]], alone)
    again = saved_encoder(encoder.config)
    again.build(encoder.config)
    again.load_state_dict(encoder.state_dict())
    torch.testing.assert_close(again(padded(), LENGTHS).frames, output.frames)


@pytest.mark.parametrize("kind", [kind for kind, _ in KINDS])
def test_masks_are_made_where_the_frames_are(kind: type[Encoder], monkeypatch: pytest.MonkeyPatch) -> None:
    # tensors without values in a GPU's place; lengths stay on the CPU
    encoder = built(kind).to("meta")
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    output = encoder(torch.empty(3, 16_000, device="meta"), LENGTHS)
    assert output.frame_mask.device == output.frames.device == torch.device("meta")
    assert mean_pool(output).shape == (3, encoder.dim)


class TrainingSet:
    frame_source = FeatureSource(encoder="test", dim=4, frame_seconds=0.2)


def cached() -> CachedFeatures:
    encoder = CachedFeatures()
    encoder.prepare(TrainingSet())
    encoder.build()
    return encoder


def batch(dtype: torch.dtype = torch.float16) -> CachedBatch:
    torch.manual_seed(0)
    features = torch.randn(2, 3, 4).to(dtype)
    features[1, 2] = 0
    return CachedBatch(
        features=features, num_frames=torch.tensor([3, 2]), speaker_ids=["a", None], indices=torch.tensor([0, 1])
    )


def test_cached_frames_are_given_as_they_are_and_a_checkpoint_names_what_made_them() -> None:
    output = cached().encode(batch())
    assert torch.equal(output.frames, batch()["features"].float())
    assert output.frame_mask.tolist() == [[True, True, True], [True, True, False]]
    assert cached().encode(batch(torch.bfloat16)).frames.dtype == torch.bfloat16
    last = Personalization(make_fusion("last", 4), torch.ones(2, 4))
    assert torch.equal(cached().encode(batch(), personalization=last).frames, output.frames + 1)
    again = saved_encoder(cached().config)
    again.build(cached().config)
    assert isinstance(again, CachedFeatures)
    assert again.source == TrainingSet.frame_source


def test_encoders_and_batches_that_do_not_belong_together_are_refused() -> None:
    refused("there is no feature cache to read", CachedFeatures().build)
    speech = SpeechBatch(
        waveforms=torch.zeros(1, 800), num_samples=torch.tensor([800]), speaker_ids=["a"], indices=torch.tensor([0])
    )
    refused("reads cached features of test, not audio", cached().encode, speech)
    refused("TinyEncoder: the model reads audio, the batch holds cached features", TinyEncoder().encode, batch())


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
