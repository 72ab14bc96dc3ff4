from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ser_personal.errors import UserError
from ser_personal.speakers.unseen import EmbeddingTable, Nearest, UnseenSpeakers

IDS = ["anna", "bela", "carl", "dora"]


def table(features: torch.Tensor | None = None) -> EmbeddingTable:
    torch.manual_seed(0)
    fc = torch.nn.Linear(3, 5)
    return EmbeddingTable(IDS, fc(torch.randn(4, 3)), fc, features)


def unseen(*ids: str | None, rows: list[int] | None = None, features: torch.Tensor | None = None) -> UnseenSpeakers:
    return UnseenSpeakers(list(ids), rows or [-1] * len(ids), features)


def by_hand(asked: torch.Tensor, known: torch.Tensor, k: int, leave_out: int | None = None) -> list[float]:
    """The weights of one speaker, a loop over the table's."""
    centre, scale = known.mean(0), known.var(0, correction=0).sqrt()
    one = (asked - centre) / scale
    cosines = {}
    for row, features in enumerate(known):
        other = (features - centre) / scale
        cosines[row] = float(one @ other / (one.norm() * other.norm()))
    cosines.pop(leave_out, None)
    nearest = sorted(cosines, key=cosines.get, reverse=True)[:k]
    kept = {row: max(cosines[row], 0.0) for row in nearest}
    total = sum(kept.values())
    return [kept.get(row, 0.0) / total if total else 0.0 for row in range(len(known))]


@settings(max_examples=25)
@given(st.integers(0, 1000), st.integers(1, 6))
def test_nearest_weighs_by_cosine(seed, k):
    drawn = torch.Generator().manual_seed(seed)
    known, asked = torch.randn(4, 6, generator=drawn), torch.randn(2, 6, generator=drawn)
    filled = table(known)
    weights = Nearest(k).weights(unseen("x", "y", features=asked), filled)
    wanted = torch.tensor([by_hand(one, known, k) for one in asked])
    torch.testing.assert_close(weights, wanted, atol=1e-5, rtol=1e-4)
    embedded = Nearest(k).embed(unseen("x", "y", features=asked), filled)
    expected = torch.where(wanted.sum(1, keepdim=True) > 0, wanted @ filled.embeddings, filled.embeddings.mean(0))
    torch.testing.assert_close(embedded, expected, atol=1e-4, rtol=1e-4)


def test_one_who_only_counts_as_unseen_is_not_its_own_neighbour_and_an_unknown_speaker_is_near_nobody():
    known = torch.randn(4, 6, generator=torch.Generator().manual_seed(1))
    policy, filled = Nearest(2), table(known)
    own = policy.weights(unseen("bela", rows=[1], features=known[1:2]), filled)
    assert own[0, 1] == 0
    torch.testing.assert_close(own[0], torch.tensor(by_hand(known[1], known, 2, leave_out=1)), atol=1e-5, rtol=1e-4)
    stranger = policy.weights(unseen("eva", features=known[1:2]), filled)
    assert stranger.argmax() == 1
    nobody = policy.embed(unseen(None, features=torch.full((1, 6), torch.nan)), filled)
    torch.testing.assert_close(nobody[0], filled.embeddings.mean(0))


def test_nearest_without_features():
    with pytest.raises(UserError, match=r"no features to find the nearest speakers by\. Give --data\.speaker_features"):
        Nearest().embed(unseen("x", features=torch.zeros(1, 6)), table())
