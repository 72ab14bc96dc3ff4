from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torchaudio
from garbage import refused
from tiny_models import fitted, padded_noise

from ser_personal.audio import num_frames
from ser_personal.encoder.base import Encoder
from ser_personal.encoder.hubert import TinyEncoder
from ser_personal.encoder.personalized import saved_encoder
from ser_personal.encoder.raw import CachedFeatures, LogMelEncoder, LogMelFrontEnd, MFCCEncoder, mfcc_functionals
from ser_personal.encoder.speaker_fusion import Personalization, make_fusion
from ser_personal.types import CachedBatch, FeatureSource, SpeechBatch

LENGTHS = torch.tensor([9_000, 16_000, 6_000])
SOURCE = FeatureSource(encoder="test", dim=4, frame_seconds=0.2)
KINDS = [(LogMelEncoder, 80), (MFCCEncoder, 39)]


def clips() -> list[torch.Tensor]:
    return [waveform[:length] for waveform, length in zip(padded_noise(LENGTHS), LENGTHS, strict=True)]


@pytest.mark.parametrize(("kind", "dim"), KINDS)
def test_frames_are_standardised_whatever_the_batch_and_come_back(kind: type[Encoder], dim: int) -> None:
    encoder = fitted(kind(), clips())
    output = encoder(padded_noise(LENGTHS), LENGTHS)
    real = output.frames[output.frame_mask]
    assert encoder.dim == real.shape[1] == dim
    assert torch.allclose(real.mean(0), torch.zeros(dim), atol=1e-2)
    varied = real.std(0, correction=0) > 0.5
    assert torch.allclose(real.std(0, correction=0)[varied], torch.ones(int(varied.sum())), atol=1e-2)
    assert output.frame_mask.sum(1).tolist() == num_frames(LENGTHS).tolist()
    last = Personalization(make_fusion("last", dim), torch.ones(3, dim))
    torch.testing.assert_close(encoder(padded_noise(LENGTHS), LENGTHS, personalization=last).frames, output.frames + 1)
    for row, clip in enumerate(clips()):
        alone = encoder(clip[None], LENGTHS[row : row + 1]).frames[0]
        torch.testing.assert_close(output.frames[row][output.frame_mask[row]], alone)
    again = saved_encoder(encoder.config)
    again.build(encoder.config)
    again.load_state_dict(encoder.state_dict())
    torch.testing.assert_close(again(padded_noise(LENGTHS), LENGTHS).frames, output.frames)


def cached() -> CachedFeatures:
    encoder = CachedFeatures()
    encoder.build(training_set=SimpleNamespace(frame_source=SOURCE))
    return encoder


def batch(dtype: torch.dtype = torch.float16) -> CachedBatch:
    torch.manual_seed(0)
    features = torch.randn(2, 3, 4).to(dtype)
    features[1, 2] = 0
    lengths = torch.tensor([3, 2])
    return CachedBatch(features=features, num_frames=lengths, speaker_ids=["a", None], indices=torch.arange(2))


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
    assert again.source == SOURCE


def test_encoders_and_batches_that_do_not_belong_together_are_refused() -> None:
    refused("there is no feature cache to read", CachedFeatures().build)
    audio = {"waveforms": torch.zeros(1, 800), "num_samples": torch.tensor([800])}
    speech = SpeechBatch(**audio, speaker_ids=["a"], indices=torch.tensor([0]))
    refused("CachedFeatures: reads features, and the batches hold none", cached().encode, speech)
    refused("TinyEncoder: reads waveforms, and the batches hold none", TinyEncoder().encode, batch())
    refused("was trained on an earlier version's features", MFCCEncoder().build, '{"model_type": "mfcc"}')


def test_log_mel_is_that_of_torchaudio_under_autocast_too():
    front_end, waveforms = LogMelFrontEnd(40), padded_noise(LENGTHS)
    mel = torchaudio.transforms.MelSpectrogram(n_fft=400, hop_length=320, n_mels=40, center=False)(waveforms)
    wanted = mel.transpose(1, 2).clamp(min=1e-6).log()
    assert wanted.shape == (3, num_frames(16_000), 40)
    torch.testing.assert_close(front_end.features(waveforms, LENGTHS), wanted, atol=1e-4, rtol=1e-4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(front_end.features(waveforms, LENGTHS), wanted, atol=1e-4, rtol=1e-4)


def test_statistics_are_of_some_training_audio_and_finite_for_silence():
    limits, silence = [], LogMelFrontEnd(40)
    silence.fit(lambda limit: limits.append(limit) or iter([np.zeros(4000, dtype=np.float32)]))
    assert limits == [500]
    assert silence(padded_noise(LENGTHS), LENGTHS).isfinite().all()


def test_ten_decibels_move_only_the_first_coefficient():
    noise = 0.01 * clips()[0].numpy()
    mean, std, *quantiles = (mfcc_functionals(noise * np.float32(10**0.5)) - mfcc_functionals(noise)).reshape(7, -1)
    louder = np.zeros(39)
    louder[0] = np.log(10) * 23 / np.sqrt(23)  # an orthonormal DCT of 23 mel bins, each 10 dB louder
    for statistic in (mean, *quantiles):
        assert statistic == pytest.approx(louder, abs=1e-2)
    assert std == pytest.approx(np.zeros(39), abs=1e-2)
