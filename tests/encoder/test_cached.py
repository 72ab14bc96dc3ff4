from __future__ import annotations

import pytest
import torch

from ser_personal.encoder.cached import CachedFeatures
from ser_personal.encoder.fusion import Personalization, make_fusion
from ser_personal.encoder.hubert import TinyEncoder
from ser_personal.encoder.personalized import saved_encoder
from ser_personal.errors import UserError
from ser_personal.types import CachedBatch, FeatureSource, SpeechBatch

SOURCE = FeatureSource(encoder="test", dim=4, frame_seconds=0.2)


class TrainingSet:
    frame_source = SOURCE


def built() -> CachedFeatures:
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


def test_gives_the_cached_frames() -> None:
    output = built().encode(batch())
    assert torch.equal(output.frames, batch()["features"].float())
    assert output.frame_mask.tolist() == [[True, True, True], [True, True, False]]
    assert built().encode(batch(torch.bfloat16)).frames.dtype == torch.bfloat16
    last = Personalization(make_fusion("last", 4), torch.ones(2, 4))
    fused = built().encode(batch(), personalization=last).frames
    assert torch.equal(fused, output.frames + 1)


def test_a_checkpoint_names_what_made_the_frames() -> None:
    again = saved_encoder(built().config, "saved")
    again.build(built().config)
    assert isinstance(again, CachedFeatures)
    assert again.source == SOURCE
    assert again.dim == 4


def test_encoders_and_batches_that_do_not_belong_together_are_refused() -> None:
    with pytest.raises(UserError, match="there is no feature cache to read"):
        CachedFeatures().build()
    speech = SpeechBatch(
        waveforms=torch.zeros(1, 800), num_samples=torch.tensor([800]), speaker_ids=["a"], indices=torch.tensor([0])
    )
    with pytest.raises(UserError, match="reads cached features of test, not audio"):
        built().encode(speech)
    with pytest.raises(UserError, match="TinyEncoder: the model reads audio, the batch holds cached features"):
        TinyEncoder().encode(batch())
    with pytest.raises(UserError, match="masked prediction here"):
        built().encode(batch(), time_mask=torch.ones(2, 3, dtype=torch.bool))
