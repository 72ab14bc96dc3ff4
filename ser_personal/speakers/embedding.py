"""The learnt speaker embedding e_s: a table of the speakers known to PAPT and one fully connected layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from ser_personal.errors import UserError
from ser_personal.ranges import require_range

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from ser_personal.types import UnseenPolicy


class SpeakerEmbedding(nn.Module):
    """`Embedding(speakers, embedding_dim)` and a fully connected layer -> e_s (paper, section 2.1).

    The table goes by speaker id and is saved in the checkpoint with its ids, so that neither another corpus nor a
    newer version of one can shift its rows. The layer starts at zero (ours): PAPT begins as TAPT, and what e_s is
    worth shows as a difference from there.

    Args:
        embedding_dim: width of the table; the paper doesn't give it.
        unseen: what a speaker outside the table gets: the `mean` of all e_s, `zero`, or an `error`.
        permute: control: every speaker gets another speaker's row, the same one each time.

    Raises:
        UserError: `embedding_dim` is below 1.
    """

    def __init__(self, embedding_dim: int = 128, unseen: UnseenPolicy = "mean", *, permute: bool = False) -> None:
        require_range("embedding_dim", embedding_dim, 1)
        super().__init__()
        self.embedding_dim = embedding_dim
        self.unseen = unseen
        self.permute = permute
        self.ids: list[str] = []
        self.embedding: nn.Embedding | None = None
        self.fc: nn.Linear | None = None

    def build(self, speaker_ids: Sequence[str], dim: int) -> None:
        """Make a fresh table for these speakers, for an encoder of width `dim`."""
        if not speaker_ids:
            raise UserError(
                "no known speaker to embed",
                where="speaker table",
                remedy="Name the speakers in the corpus, or train without embeddings (--model.fusion none)",
            )
        self.ids = list(speaker_ids)
        self.embedding = nn.Embedding(len(self.ids), self.embedding_dim)
        self.fc = nn.Linear(self.embedding_dim, dim)
        nn.init.zeros_(self.fc.weight)
        nn.init.zeros_(self.fc.bias)

    def clear(self) -> None:
        """Forget the table, where nothing is fused."""
        self.ids, self.embedding, self.fc = [], None, None

    def rows(self, speaker_ids: Sequence[str | None]) -> list[int]:
        """Look up each speaker's row, -1 for one outside the table.

        Raises:
            UserError: a speaker is outside the table and the policy is `error`.
        """
        row_of = {speaker: row for row, speaker in enumerate(self.ids)}
        if self.permute:
            row_of = _derange(row_of)
        rows = [-1 if speaker is None else row_of.get(speaker, -1) for speaker in speaker_ids]
        if self.unseen == "error" and -1 in rows:
            raise UserError(
                "not among the speakers of the embedding table",
                where=f"speaker {speaker_ids[rows.index(-1)]}",
                remedy="Choose a policy for unseen speakers: --model.speakers.unseen mean or zero",
            )
        return rows

    def forward(self, speaker_ids: Sequence[str | None]) -> Tensor:
        """Embed speakers.

        Args:
            speaker_ids: (batch,), None where unknown.

        Returns:
            e_s, (batch, dim).
        """
        if self.embedding is None or self.fc is None:
            raise RuntimeError("build() the speaker table before using it")
        rows = torch.tensor(self.rows(speaker_ids), device=self.fc.weight.device)
        known = (rows >= 0)[:, None]
        fallback = self.fc(self.embedding.weight.mean(0)) if self.unseen == "mean" else self.fc.bias.new_zeros(())
        return torch.where(known, self.fc(self.embedding(rows.clamp(min=0))), fallback)


def _derange(row_of: dict[str, int]) -> dict[str, int]:
    order = torch.randperm(len(row_of), generator=torch.Generator().manual_seed(0)).tolist()
    moved = {row: order[(place + 1) % len(order)] for place, row in enumerate(order)}
    return {speaker: moved[row] for speaker, row in row_of.items()}
