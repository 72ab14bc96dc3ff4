from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ser_personal.errors import UserError
from ser_personal.speakers.embedding import SpeakerEmbedding
from ser_personal.speakers.representation import SpeakerQuery, SpeakerSet
from ser_personal.speakers.unseen import Mean, Refuse, UnseenPolicy, Zero

IDS = ["anna", "bela", "carl"]


def table(unseen: UnseenPolicy | None = None, *, ids: list[str] = IDS, permute: bool = False) -> SpeakerEmbedding:
    """A table whose layer isn't at its zeros any more."""
    torch.manual_seed(0)
    speakers = SpeakerEmbedding(5, unseen, permute=permute)
    speakers.build(SpeakerSet(ids), dim=4)
    torch.nn.init.normal_(speakers.fc.weight)
    torch.nn.init.normal_(speakers.fc.bias)
    return speakers


def embed(speakers: SpeakerEmbedding, ids: list[str | None]) -> torch.Tensor:
    return speakers(SpeakerQuery(ids))


def e_s(speakers: SpeakerEmbedding, row: int) -> torch.Tensor:
    return speakers.fc.weight @ speakers.embedding.weight[row] + speakers.fc.bias


def test_embeddings_go_by_id():
    speakers = table()
    embedded = embed(speakers, ["carl", "anna", "carl"])
    torch.testing.assert_close(embedded, torch.stack([e_s(speakers, 2), e_s(speakers, 0), e_s(speakers, 2)]))


def test_nothing_is_added_at_the_start_and_only_rows_of_the_batch_learn():
    speakers = SpeakerEmbedding(5)
    speakers.build(SpeakerSet(IDS), dim=4)
    assert embed(speakers, [*IDS, "dora"]).tolist() == [[0] * 4] * 4
    optimizer = torch.optim.SGD(speakers.parameters(), 0.1)
    before = speakers.embedding.weight.clone()
    for _ in range(2):
        optimizer.zero_grad()
        embed(speakers, ["bela"]).sum().backward()
        optimizer.step()
    assert (speakers.embedding.weight != before).any(1).tolist() == [False, True, False]


@pytest.mark.parametrize("stranger", ["dora", None])
def test_policy_for_speakers_outside_the_table(stranger):
    mean = table(Mean())
    wanted = torch.stack([e_s(mean, row) for row in range(3)]).mean(0)
    torch.testing.assert_close(embed(mean, ["anna", stranger]), torch.stack([e_s(mean, 0), wanted]))
    zero = table(Zero())
    torch.testing.assert_close(embed(zero, [stranger, "anna"]), torch.stack([torch.zeros(4), e_s(zero, 0)]))
    with pytest.raises(UserError, match=f"speaker {stranger}: not among .*unseen Mean, Zero"):
        embed(table(Refuse()), ["anna", stranger])
    torch.testing.assert_close(embed(table(Refuse()), IDS), embed(table(Mean()), IDS))


def test_another_order_of_ids_needs_its_own_table():
    trained, rebuilt = table(), SpeakerEmbedding(5)
    rebuilt.build(SpeakerSet(trained.ids), dim=4)
    rebuilt.load_state_dict(trained.state_dict())
    torch.testing.assert_close(embed(rebuilt, IDS[::-1]), embed(trained, IDS[::-1]))


def test_build_starts_afresh():
    speakers = table()
    speakers.build(SpeakerSet(["x", "y"]), dim=6)
    assert speakers.ids == ["x", "y"]
    assert speakers.embedding.weight.shape == (2, 5)
    assert embed(speakers, ["anna", "x"]).tolist() == [[0] * 6] * 2


@given(st.integers(2, 40))
def test_permutation_is_a_fixed_derangement(count):
    ids = [f"s{number}" for number in range(count)]
    speakers = table(ids=ids, permute=True)
    rows = speakers.rows(ids)
    assert sorted(rows) == list(range(count))
    assert all(row != own for own, row in enumerate(rows))
    assert table(ids=ids, permute=True).rows(ids[::-1]) == rows[::-1]
    assert speakers.rows([None, "stranger"]) == [-1, -1]
    torch.testing.assert_close(embed(speakers, ids), torch.stack([e_s(speakers, row) for row in rows]))


def test_nobody_to_embed_and_use_before_build():
    with pytest.raises(UserError, match=r"speaker table: no known speaker to embed\. .*--model\.fusion none"):
        SpeakerEmbedding().build(SpeakerSet([]), dim=4)
    with pytest.raises(RuntimeError, match="build"):
        embed(SpeakerEmbedding(), ["anna"])
