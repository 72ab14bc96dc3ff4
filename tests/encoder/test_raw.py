from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import pytest
import torch

from ser_personal.audio import num_frames
from ser_personal.encoder.base import Encoder, mean_pool
from ser_personal.encoder.front_end import EGeMAPSFrontEnd
from ser_personal.encoder.fusion import Personalization, make_fusion
from ser_personal.encoder.personalized import saved_encoder
from ser_personal.encoder.raw import EGeMAPSEncoder, LogMelEncoder, MFCCEncoder
from ser_personal.errors import UserError

LENGTHS = torch.tensor([9_000, 16_000, 6_000])
KINDS = [(LogMelEncoder, 80), (MFCCEncoder, 39), (EGeMAPSEncoder, 88)]


def clips() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    times = np.arange(16_000) / 16_000
    return [
        (0.3 * np.sin(2 * np.pi * (120 + 40 * k) * times) + 0.02 * rng.normal(size=16_000)).astype(np.float32)[:length]
        for k, length in enumerate(LENGTHS.tolist())
    ]


def padded() -> torch.Tensor:
    return torch.nn.utils.rnn.pad_sequence([torch.from_numpy(clip) for clip in clips()], batch_first=True)


def built(kind: type[Encoder], **sizes: int) -> Encoder:
    if kind is EGeMAPSEncoder:
        pytest.importorskip("opensmile", reason="needs the extra egemaps")
    encoder = kind(**sizes)
    encoder.build()
    encoder.fit_front_end(lambda limit: iter(clips()[:limit]))
    return encoder


@pytest.mark.parametrize(("kind", "dim"), KINDS)
def test_frames_are_standardised_over_training_audio(kind: type[Encoder], dim: int) -> None:
    encoder = built(kind)
    output = encoder(padded(), LENGTHS)
    real = output.frames[output.frame_mask]
    assert encoder.dim == real.shape[1] == dim
    assert torch.allclose(real.mean(0), torch.zeros(dim), atol=1e-2)
    varied = real.std(0, correction=0) > 0.5
    assert torch.allclose(real.std(0, correction=0)[varied], torch.ones(int(varied.sum())), atol=1e-2)
    frames = [1, 1, 1] if kind is EGeMAPSEncoder else num_frames(LENGTHS).tolist()
    assert output.frame_mask.sum(1).tolist() == frames
    last = Personalization(make_fusion("last", dim), torch.ones(3, dim))
    fused = encoder(padded(), LENGTHS, personalization=last).frames
    torch.testing.assert_close(fused, output.frames + 1)


@pytest.mark.parametrize("kind", [kind for kind, _ in KINDS])
def test_a_clip_does_not_depend_on_its_batch_mates(kind: type[Encoder]) -> None:
    encoder = built(kind)
    together = encoder(padded(), LENGTHS)
    for row, clip in enumerate(clips()):
        alone = encoder(torch.from_numpy(clip)[None], LENGTHS[row : row + 1]).frames[0]
        torch.testing.assert_close(together.frames[row][together.frame_mask[row]], alone)


@pytest.mark.parametrize("kind", [kind for kind, _ in KINDS])
def test_a_saved_one_comes_back(kind: type[Encoder]) -> None:
    for encoder in [built(kind), *([built(LogMelEncoder, num_mels=24)] if kind is LogMelEncoder else [])]:
        again = saved_encoder(encoder.config, "saved")
        again.build(encoder.config)
        again.load_state_dict(encoder.state_dict())
        torch.testing.assert_close(again(padded(), LENGTHS).frames, encoder(padded(), LENGTHS).frames)


def test_egemaps_are_opensmiles_and_a_clip_too_short_is_the_average_one() -> None:
    opensmile = pytest.importorskip("opensmile", reason="needs the extra egemaps")
    smile = opensmile.Smile(opensmile.FeatureSet.eGeMAPSv02, opensmile.FeatureLevel.Functionals)
    front_end = EGeMAPSFrontEnd()
    clip = torch.from_numpy(clips()[1])[None]
    expected = smile.process_signal(clip[0].numpy(), 16_000).to_numpy()[0]
    np.testing.assert_allclose(front_end.features(clip, torch.tensor([16_000]))[0, 0], expected, rtol=1e-5)
    assert not front_end(clip, torch.tensor([500])).any()


def test_samples_above_full_scale_are_clipped_and_not_turned_around() -> None:
    pytest.importorskip("opensmile", reason="needs the extra egemaps")
    front_end, clip = EGeMAPSFrontEnd(), torch.from_numpy(clips()[1])[None]
    lengths = torch.tensor([16_000])
    torch.testing.assert_close(
        front_end.features(4 * clip, lengths), front_end.features((4 * clip).clamp(-1, 1), lengths)
    )


def test_raw_features_cannot_be_pre_trained() -> None:
    with pytest.raises(UserError, match="MFCCEncoder: can't be pre-trained by masked prediction here"):
        built(MFCCEncoder)(padded(), LENGTHS, time_mask=torch.zeros(3, 49, dtype=torch.bool))


def test_mfcc_of_an_earlier_versions_settings_are_refused() -> None:
    with pytest.raises(UserError, match="the checkpoint: was trained on MFCC of other settings"):
        MFCCEncoder().build('{"model_type": "mfcc"}')


@pytest.mark.parametrize("kind", [kind for kind, _ in KINDS])
def test_masks_are_made_where_the_frames_are(kind: type[Encoder], monkeypatch: pytest.MonkeyPatch) -> None:
    # tensors without values in a GPU's place; lengths stay on the CPU
    encoder = built(kind).to("meta")
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    if kind is EGeMAPSEncoder:
        monkeypatch.setattr(encoder.front_end, "features", lambda waveforms, _: waveforms[:, None, :88])
    output = encoder(torch.empty(3, 16_000, device="meta"), LENGTHS)
    assert output.frame_mask.device == output.frames.device == torch.device("meta")
    assert mean_pool(output).shape == (3, encoder.dim)
