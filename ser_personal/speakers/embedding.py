"""The speaker embedding e_s: what every kind of it is, and the learnt one, a table and one fully connected layer."""

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, TypedDict

import numpy as np
import torch
from jsonargparse.typing import PositiveInt
from numpy.typing import NDArray
from torch import Tensor, nn
from typing_extensions import override

from ser_personal.speakers.unseen import Mean, UnseenPolicy


class SpeakerDescription(TypedDict):
    """What a checkpoint says of its representation: its class's name, and what its weights' shapes depend on."""

    name: str
    sizes: dict[str, Any]
    speaker_ids: list[str]
    feature_dim: int


class SpeakerRepresentation(nn.Module, ABC):
    """e_s of speakers, (batch, dim); built once speakers and the encoder's width are known."""

    # the speakers it was built for; none if nothing is fused
    ids: Sequence[str] = ()
    # those of `ids` that name other people in the corpus at hand, who have no e_s of their own
    namesakes: frozenset[str] = frozenset()
    # equal ids are one person, in any corpus
    same_names: bool = True
    is_learnt: ClassVar[bool] = True
    # names of the arguments that the shapes of the weights depend on
    sizes: ClassVar[tuple[str, ...]] = ()
    # width of the speaker features, 0 where it reads none
    feature_dim = 0

    @abstractmethod
    def build(self, speaker_ids: Sequence[str], dim: int, features: NDArray[np.float32] | None = None) -> None:
        """Make new weights, for an encoder of width `dim` and these speakers, sorted, with features if any."""

    def rebuild(self, description: SpeakerDescription, dim: int) -> None:
        """Make the weights that a checkpoint describes, to be loaded."""
        for name in self.sizes:
            setattr(self, name, description["sizes"][name])
        self.build(description["speaker_ids"], dim, np.zeros((1, description["feature_dim"]), dtype=np.float32))

    def describe(self) -> SpeakerDescription:
        """Describe speakers and weights for a checkpoint."""
        # plain numbers: torch refuses to load the types by which the command line restricts them
        sizes = json.loads(json.dumps({name: getattr(self, name) for name in self.sizes}))
        name, ids = type(self).__name__, list(self.ids)
        return SpeakerDescription(name=name, sizes=sizes, speaker_ids=ids, feature_dim=self.feature_dim)

    @property
    def settings(self) -> tuple[object, ...]:
        """What e_s depends on apart from weights and description."""
        return ()

    @abstractmethod
    def forward(self, speaker_ids: Sequence[str | None], features: Tensor | None = None) -> Tensor:
        """Embed speakers, None if unknown, with features (batch, feature_dim), NaN if unknown; -> e_s (batch, dim)."""


class SpeakerEmbedding(SpeakerRepresentation):
    """`Embedding(speakers, embedding_dim)` and a fully connected layer -> e_s (paper, section 2.1).

    The table is saved with its speaker ids, so no other corpus can shift its rows. The layer starts at zero (ours),
    so that with fusion last, first or concat PAPT's frames start as TAPT's.

    Args:
        embedding_dim: width of the table; the paper doesn't give it.
        unseen: what a speaker outside the table gets; the mean of all e_s if None.
        permute: control: every speaker gets another speaker's row, the same one each time.
        same_names: an id of the table is the same person in a corpus of which no audio was trained on; otherwise such a
            speaker is unseen (ours).
    """

    sizes = ("embedding_dim",)
    embedding: nn.Embedding
    fc: nn.Linear

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

    @override
    def build(self, speaker_ids: Sequence[str], dim: int, features: NDArray[np.float32] | None = None) -> None:
        self.ids = list(speaker_ids)
        self.embedding = nn.Embedding(len(self.ids), self.embedding_dim)
        self.fc = nn.Linear(self.embedding_dim, dim)
        nn.init.zeros_(self.fc.weight)
        nn.init.zeros_(self.fc.bias)

    @property
    @override
    def settings(self) -> tuple[object, ...]:
        unseen = (type(self.unseen).__name__, *sorted(vars(self.unseen).items()))
        return (unseen, self.permute, *sorted(self.namesakes))

    def rows(self, speaker_ids: Sequence[str | None]) -> list[int]:
        """Look up each speaker's row, -1 for one outside the table."""
        row_of: dict[str | None, int] = {speaker: row for row, speaker in enumerate(self.ids)}
        if self.permute:
            # everyone gets the row of the next one in a random order
            order = torch.randperm(len(self.ids), generator=torch.Generator().manual_seed(0)).tolist()
            row_of = {self.ids[row]: other for row, other in zip(order, [*order[1:], *order[:1]], strict=True)}
        return [-1 if speaker in self.namesakes else row_of.get(speaker, -1) for speaker in speaker_ids]

    @override
    def forward(self, speaker_ids: Sequence[str | None], features: Tensor | None = None) -> Tensor:
        rows, device = self.rows(speaker_ids), self.fc.weight.device
        embeddings: Tensor = self.fc(self.embedding(torch.tensor(rows, device=device).clamp(min=0)))
        outside = [number for number, row in enumerate(rows) if row < 0]
        if not outside:
            return embeddings
        unseen = self.unseen.embed(self.fc(self.embedding.weight)).to(embeddings.dtype)
        return embeddings.index_copy(0, torch.tensor(outside, device=device), unseen.expand(len(outside), -1))
