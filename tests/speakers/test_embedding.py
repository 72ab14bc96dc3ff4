from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ser_personal.errors import UserError
from ser_personal.speakers.embedding import SpeakerEmbedding
from ser_personal.speakers.representation import SpeakerQuery, SpeakerSet
from ser_personal.speakers.unseen import Mean, UnseenPolicy, Zero

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


def test_embeddings_go_by_id_in_a_table_that_a_checkpoint_describes_too():
    trained, rebuilt = table(), SpeakerEmbedding()
    rebuilt.rebuild(trained.describe(), dim=4)
    rebuilt.load_state_dict(trained.state_dict())
    wanted = torch.stack([e_s(trained, 2), e_s(trained, 0), e_s(trained, 2)])
    for speakers in (trained, rebuilt):
        torch.testing.assert_close(embed(speakers, ["carl", "anna", "carl"]), wanted)


@settings(max_examples=20)
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


def test_nobody_to_embed():
    with pytest.raises(UserError, match=r"speaker table: no known speaker to embed\. .*--model\.fusion none"):
        SpeakerEmbedding().build(SpeakerSet([]), dim=4)
