from __future__ import annotations

import numpy as np
import pytest
import torch

from ser_personal.errors import UserError
from ser_personal.speakers.features import FeatureRepresentation, FixedSpeakerFeatures, SpeakerEmbedder
from ser_personal.speakers.representation import SpeakerQuery, SpeakerSet

IDS = ["anna", "bela", "carl"]
FEATURES = np.random.default_rng(0).normal(5, 3, (3, 6)).astype(np.float32)


def built(representation: FeatureRepresentation, dim: int) -> FeatureRepresentation:
    representation.build(SpeakerSet(IDS, FEATURES), dim)
    return representation.eval()


def asked(features: np.ndarray) -> SpeakerQuery:
    return SpeakerQuery(["anyone"] * len(features), torch.from_numpy(features))


def standardized(features: np.ndarray) -> torch.Tensor:
    return torch.from_numpy((features - FEATURES.mean(0)) / FEATURES.std(0))


def test_fixed_features_are_e_s_themselves_or_projected_to_its_width_the_same_in_every_run():
    fixed = built(FixedSpeakerFeatures(), 6)
    torch.testing.assert_close(fixed(asked(FEATURES + 1)), standardized(FEATURES + 1))
    one, other = built(FixedSpeakerFeatures(), 400), built(FixedSpeakerFeatures(), 400)
    embedded = one(asked(FEATURES))
    torch.testing.assert_close(embedded, other(asked(FEATURES)))
    distances, wanted = torch.pdist(embedded), torch.pdist(standardized(FEATURES))
    torch.testing.assert_close(distances, wanted, rtol=0.3, atol=0.0)


def test_unknown_speakers_count_as_the_average_one_and_a_column_alike_for_all_says_nothing():
    unknown = np.full((1, 6), np.nan, dtype=np.float32)
    assert built(FixedSpeakerFeatures(), 6)(asked(unknown)).tolist() == [[0] * 6]
    features = FEATURES.copy()
    features[:, 2] = 7.0
    fixed = FixedSpeakerFeatures()
    fixed.build(SpeakerSet(IDS, features), 6)
    features[:, 2] = 1e6
    assert fixed(asked(features))[:, 2].tolist() == [0, 0, 0]


def test_an_embedder_starts_at_zero_and_learns():
    embedder = built(SpeakerEmbedder((8,), dropout=0.0), 4)
    assert embedder(asked(FEATURES)).tolist() == [[0] * 4] * 3
    optimizer = torch.optim.SGD(embedder.parameters(), 0.1)
    for _ in range(2):
        optimizer.zero_grad()
        (embedder(asked(FEATURES)) - 1).square().sum().backward()
        optimizer.step()
    assert embedder(asked(FEATURES)).abs().min() > 0


@pytest.mark.parametrize(("kind", "dim"), [(FixedSpeakerFeatures, 9), (SpeakerEmbedder, 4)])
def test_a_description_rebuilds_it(kind, dim):
    torch.manual_seed(0)
    trained = built(kind(), dim)
    for weight in trained.parameters():
        torch.nn.init.normal_(weight)
    rebuilt = kind()
    rebuilt.rebuild(trained.describe(), dim)
    rebuilt.load_state_dict(trained.state_dict())
    assert rebuilt.describe() == trained.describe()
    torch.testing.assert_close(rebuilt.eval()(asked(FEATURES)), trained(asked(FEATURES)))


def test_features_that_are_lacking_or_of_another_width():
    with pytest.raises(UserError, match=r"SpeakerEmbedder: there are no speaker features\. Give --data\.speaker_feat"):
        SpeakerEmbedder().build(SpeakerSet(IDS), 4)
    representation = built(SpeakerEmbedder(), 4)
    for features, width in ((None, 0), (torch.zeros(1, 5), 5)):
        with pytest.raises(UserError, match=f"the model reads 6 speaker features, the data has {width}"):
            representation(SpeakerQuery(["anna"], features))
