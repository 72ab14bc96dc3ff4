"""What a speaker outside the embedding table gets: policies, each a class (all are ours: the paper doesn't say).

`Mean` is the default. `Adapted`, a row learnt on the speaker's own unlabelled audio, is in pretrain/adapt.py.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jsonargparse.typing import PositiveInt
from torch.nn import functional
from typing_extensions import override

from ser_personal.errors import UserError
from ser_personal.speakers.representation import SpeakerAudio

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn


@dataclass(frozen=True, eq=False)
class EmbeddingTable:
    """What a policy may draw on: e_s (speakers, dim), the layer that makes them of rows, and features if any."""

    ids: Sequence[str]
    embeddings: Tensor
    fc: nn.Linear
    features: Tensor | None


@dataclass(frozen=True, eq=False)
class UnseenSpeakers:
    """Who has no row in the table, or is treated so; `rows` (unseen,) holds the latter's, else -1.

    Features are (unseen, feature_dim), NaN for unknown speakers, whose id is None.
    """

    ids: Sequence[str | None]
    rows: Sequence[int]
    features: Tensor | None


class UnseenPolicy(ABC):
    """From the table to an embedding for speakers outside it."""

    @property
    def reads_features(self) -> bool:
        """Whether it needs speaker features."""
        return False

    @property
    def speaker_audio(self) -> SpeakerAudio:
        """Audio of speakers outside the table that its embeddings were made from."""
        return SpeakerAudio()

    @abstractmethod
    def embed(self, unseen: UnseenSpeakers, table: EmbeddingTable) -> Tensor:
        """Embed speakers outside the table, -> (unseen, dim)."""

    @property
    def settings(self) -> tuple[object, ...]:
        """What its embeddings depend on apart from the table."""
        return (type(self).__name__, *sorted(vars(self).items()))


class Mean(UnseenPolicy):
    """The mean of all e_s."""

    @override
    def embed(self, unseen: UnseenSpeakers, table: EmbeddingTable) -> Tensor:
        return table.embeddings.mean(0).expand(len(unseen.ids), -1)


class Zero(UnseenPolicy):
    """No embedding: frames as the encoder makes them."""

    @override
    def embed(self, unseen: UnseenSpeakers, table: EmbeddingTable) -> Tensor:
        return table.embeddings.new_zeros(len(unseen.ids), table.embeddings.shape[1])


class Nearest(UnseenPolicy):
    """The embeddings of the k speakers of the table with the closest features, by cosine (not PLDC's neighbours).

    Features of both sides come from one source (`--data.speaker_features`), standardised over the table's speakers. One
    who is only treated as unseen doesn't count among the nearest. Each weighs its cosine, those below 0 nothing;
    where none is above, and for unknown speakers, it is the mean.

    Args:
        k: how many speakers; all where the table has fewer.
    """

    def __init__(self, k: PositiveInt = 10) -> None:
        self.k = k

    @property
    @override
    def reads_features(self) -> bool:
        return True

    @override
    def embed(self, unseen: UnseenSpeakers, table: EmbeddingTable) -> Tensor:
        weights = self.weights(unseen, table)
        mean = table.embeddings.mean(0).expand(len(weights), -1)
        return torch.where(weights.sum(1, keepdim=True) > 0, weights @ table.embeddings, mean)

    def weights(self, unseen: UnseenSpeakers, table: EmbeddingTable) -> Tensor:
        """Weight of each speaker of the table, (unseen, speakers); rows sum to 1, or 0 where no cosine is positive."""
        if unseen.features is None or table.features is None:
            raise UserError(
                "no features to find the nearest speakers by",
                where="--model.speakers.unseen Nearest",
                remedy="Give --data.speaker_features, such as a feature cache or a table of speaker vectors",
            )
        centre, scale = table.features.mean(0), table.features.std(0, correction=0).clamp(min=1e-8)
        known = functional.normalize((table.features - centre) / scale, dim=1)
        # an unknown speaker's features are NaN, and near no one's
        asked = functional.normalize(((unseen.features - centre) / scale).nan_to_num(0.0), dim=1)
        cosines = asked @ known.T
        for number, row in enumerate(unseen.rows):
            if row >= 0:
                cosines[number, row] = -1.0
        nearest = cosines.topk(min(self.k, cosines.shape[1]), dim=1)
        weights = torch.zeros_like(cosines).scatter(1, nearest.indices, nearest.values.clamp(min=0))
        return weights / weights.sum(1, keepdim=True).clamp(min=1e-8)
