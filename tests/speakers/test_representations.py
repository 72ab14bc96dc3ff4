import numpy as np
import pytest
import torch
from garbage import refused
from hypothesis import given, settings
from hypothesis import strategies as st

from ser_personal.speakers.embedding import SpeakerEmbedding
from ser_personal.speakers.features import FixedSpeakerFeatures, SpeakerEmbedder
from ser_personal.speakers.unseen import Mean, Zero

IDS = ["anna", "bela", "carl"]
FEATURES = np.random.default_rng(0).normal(5, 3, (3, 6)).astype(np.float32)


def built(representation, dim=4, ids=IDS, features=FEATURES, *, trained=False):
    torch.manual_seed(0)
    representation.build(ids, dim, features)
    for weight in representation.parameters() if trained else ():
        torch.nn.init.normal_(weight)
    return representation.eval()


def of(features, representation):
    return representation(["anyone"] * len(features), torch.from_numpy(features))


def e_s(table, row):
    return table.fc.weight @ table.embedding.weight[row] + table.fc.bias


def standardized(features):
    return torch.from_numpy((features - FEATURES.mean(0)) / FEATURES.std(0))


@pytest.mark.parametrize("kind", [SpeakerEmbedding, lambda: SpeakerEmbedder((8,), dropout=0.0)])
def test_nothing_is_added_at_the_start_and_it_learns(kind):
    speakers, features = built(kind()), torch.from_numpy(FEATURES)
    assert speakers([*IDS, "dora"], torch.cat([features, features[:1]])).tolist() == [[0] * 4] * 4
    optimizer = torch.optim.SGD(speakers.parameters(), 0.1)
    before = [weight.clone() for weight in speakers.parameters()]
    for _ in range(2):
        optimizer.zero_grad()
        speakers(["bela"], features[1:2]).sum().backward()
        optimizer.step()
    assert all((weight != old).any() for weight, old in zip(speakers.parameters(), before, strict=True))


def test_policy_for_speakers_outside_the_table():
    mean, zero = (built(SpeakerEmbedding(5, policy), trained=True) for policy in (Mean(), Zero()))
    wanted = torch.stack([e_s(mean, row) for row in range(3)]).mean(0)
    torch.testing.assert_close(mean(["anna", "dora", None]), torch.stack([e_s(mean, 0), wanted, wanted]))
    torch.testing.assert_close(zero(["dora", "anna"]), torch.stack([torch.zeros(4), e_s(zero, 0)]))


@settings(max_examples=20)
@given(st.integers(2, 40))
def test_permutation_is_a_fixed_derangement(count):
    ids = [f"s{number}" for number in range(count)]
    speakers = built(SpeakerEmbedding(5, permute=True), ids=ids, trained=True)
    rows = speakers.rows(ids)
    assert sorted(rows) == list(range(count))
    assert all(row != own for own, row in enumerate(rows))
    assert built(SpeakerEmbedding(5, permute=True), ids=ids).rows(ids[::-1]) == rows[::-1]
    assert speakers.rows([None, "stranger"]) == [-1, -1]
    torch.testing.assert_close(speakers(ids), torch.stack([e_s(speakers, row) for row in rows]))


def test_fixed_features_are_e_s_themselves_or_projected_to_its_width_the_same_in_every_run():
    torch.testing.assert_close(of(FEATURES + 1, built(FixedSpeakerFeatures(), 6)), standardized(FEATURES + 1))
    small = FEATURES * np.float32(1e-8)
    torch.testing.assert_close(of(small, built(FixedSpeakerFeatures(), 6, features=small)), standardized(FEATURES))
    one, other = (of(FEATURES, built(FixedSpeakerFeatures(), 400)) for _ in range(2))
    torch.testing.assert_close(one, other)
    torch.testing.assert_close(torch.pdist(one), torch.pdist(standardized(FEATURES)), rtol=0.3, atol=0.0)


def test_unknown_speakers_count_as_the_average_one_and_a_column_alike_for_all_says_nothing():
    unknown, constant = np.full((1, 6), np.nan, dtype=np.float32), FEATURES.copy()
    constant[:, 2] = 7.0
    fixed = built(FixedSpeakerFeatures(), 6, features=constant.copy())
    assert of(unknown, fixed).tolist() == [[0] * 6]
    constant[:, 2] = 1e6
    assert of(constant, fixed)[:, 2].tolist() == [0, 0, 0]


@pytest.mark.parametrize("kind", [SpeakerEmbedding, FixedSpeakerFeatures, SpeakerEmbedder])
def test_a_description_rebuilds_it_and_a_table_goes_by_id(kind):
    trained, rebuilt = built(kind(), 9, trained=True), kind()
    rebuilt.rebuild(trained.describe(), 9)
    rebuilt.load_state_dict(trained.state_dict())
    assert rebuilt.describe() == trained.describe()
    order, features = [2, 0, 2], torch.from_numpy(FEATURES)
    wanted = trained(IDS, features)[order]
    torch.testing.assert_close(rebuilt.eval()([IDS[row] for row in order], features[order]), wanted)
    assert not torch.equal(wanted[0], wanted[1])


def test_features_that_are_lacking_or_of_another_width():
    refused(r"Embedder: there are no speaker features\. Give --data\.speaker_feat", SpeakerEmbedder().build, IDS, 4)
    refused("the model reads 6 speaker features, the data has 0", built(SpeakerEmbedder()), ["anna"])
    refused("the model reads 6 .* has 5", built(SpeakerEmbedder()), ["anna"], torch.zeros(1, 5))
