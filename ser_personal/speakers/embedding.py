"""The learnt speaker embedding e_s: a table of the speakers known to PAPT and one fully connected layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from jsonargparse.typing import PositiveInt
from torch import nn
from typing_extensions import override

from ser_personal.errors import UserError
from ser_personal.speakers.representation import (
    SpeakerAudio,
    SpeakerDescription,
    SpeakerQuery,
    SpeakerRepresentation,
    SpeakerSet,
)
from ser_personal.speakers.unseen import EmbeddingTable, Mean, UnseenPolicy, UnseenSpeakers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


class SpeakerEmbedding(SpeakerRepresentation):
    """`Embedding(speakers, embedding_dim)` and a fully connected layer -> e_s (paper, section 2.1).

    The table goes by speaker id and is saved in the checkpoint with its ids, so that neither another corpus nor a
    newer version of one can shift its rows. The layer starts at zero (ours): PAPT starts as TAPT, and any difference
    from it is due to e_s.

    Args:
        embedding_dim: width of the table; the paper doesn't give it.
        unseen: what a speaker outside the table gets; the mean of all e_s if None.
        permute: control: every speaker gets another speaker's row, the same one each time.
        same_names: speakers of a corpus none of whose audio they were learnt on are those of the table if called so;
            otherwise they are others, unseen (ours).
    """

    known_features: Tensor | None

    def __init__(
        self,
        embedding_dim: PositiveInt = 128,
        unseen: UnseenPolicy | None = None,
        *,
        permute: bool = False,
        same_names: bool = False,
    ) -> None:
        super().__init__()
        self.embedding_dim = embedding_dim
        self.unseen = unseen or Mean()
        self.permute = permute
        self.same_names = same_names
        self.ids: list[str] = []
        self.embedding: nn.Embedding | None = None
        self.fc: nn.Linear | None = None
        self.register_buffer("known_features", None)

    @override
    def build(self, speakers: SpeakerSet, dim: int) -> None:
        if not speakers.speaker_ids:
            raise UserError(
                "no known speaker to embed",
                where="speaker table",
                remedy="Name the speakers in the corpus, or train without embeddings (--model.fusion none)",
            )
        self._make(speakers.speaker_ids, dim)
        self.set_features(speakers)

    @override
    def rebuild(self, description: SpeakerDescription, dim: int) -> None:
        self.embedding_dim = description["sizes"]["embedding_dim"]
        self._make(description["speaker_ids"], dim)
        if description["feature_dim"]:
            self.known_features = torch.zeros(len(self.ids), description["feature_dim"])

    @property
    @override
    def speaker_audio(self) -> SpeakerAudio:
        return self.unseen.speaker_audio

    @property
    @override
    def lacks_features(self) -> bool:
        return bool(self.ids) and self.unseen.reads_features and self.known_features is None

    @override
    def set_features(self, speakers: SpeakerSet) -> None:
        if self.lacks_features and speakers.features is not None:
            self.known_features = torch.from_numpy(speakers.features)

    def _make(self, speaker_ids: Sequence[str], dim: int) -> None:
        self.ids = list(speaker_ids)
        self.embedding = nn.Embedding(len(self.ids), self.embedding_dim)
        self.fc = nn.Linear(self.embedding_dim, dim)
        nn.init.zeros_(self.fc.weight)
        nn.init.zeros_(self.fc.bias)

    def extend(self, speaker_ids: Sequence[str]) -> None:
        """Add rows for speakers outside the table, each at the mean of those in it."""
        if self.embedding is None:
            raise RuntimeError("build() the speaker table before extending it")
        rows = self.embedding.weight.detach()
        added = rows.mean(0).expand(len(speaker_ids), -1)
        self.ids = [*self.ids, *speaker_ids]
        self.embedding = nn.Embedding.from_pretrained(torch.cat([rows, added]), freeze=False)

    @property
    @override
    def sizes(self) -> dict[str, Any]:
        return {"embedding_dim": self.embedding_dim}

    @property
    @override
    def feature_dim(self) -> int:
        return 0 if self.known_features is None else self.known_features.shape[1]

    @property
    @override
    def settings(self) -> tuple[object, ...]:
        return (self.unseen.settings, self.permute, *sorted(self.namesakes))

    def rows(self, speaker_ids: Sequence[str | None]) -> list[int]:
        """Look up each speaker's row, -1 for one outside the table."""
        row_of = {speaker: row for row, speaker in enumerate(self.ids)}
        if self.permute:
            row_of = _derange(row_of)
        outside = {None, *self.namesakes}
        return [-1 if speaker in outside else row_of.get(str(speaker), -1) for speaker in speaker_ids]

    @override
    def forward(self, query: SpeakerQuery) -> Tensor:
        if self.embedding is None or self.fc is None:
            raise RuntimeError("build() the speaker table before using it")
        rows = self.rows(query.speaker_ids)
        embeddings: Tensor = self.fc(self.embedding(torch.tensor(rows, device=self.fc.weight.device).clamp(min=0)))
        as_unseen = query.as_unseen or [False] * len(rows)
        positions = [number for number, row in enumerate(rows) if row < 0 or as_unseen[number]]
        if not positions:
            return embeddings
        unseen = UnseenSpeakers(
            ids=[query.speaker_ids[number] for number in positions],
            rows=[rows[number] for number in positions],
            features=None if query.features is None else query.features[positions],
        )
        table = EmbeddingTable(self.ids, self.fc(self.embedding.weight), self.fc, self.known_features)
        fallback = self.unseen.embed(unseen, table).to(embeddings.dtype)
        return embeddings.index_copy(0, torch.tensor(positions, device=embeddings.device), fallback)


def _derange(row_of: dict[str, int]) -> dict[str, int]:
    order = torch.randperm(len(row_of), generator=torch.Generator().manual_seed(0)).tolist()
    moved = dict(zip(order, [*order[1:], *order[:1]], strict=True))
    return {speaker: moved[row] for speaker, row in row_of.items()}
