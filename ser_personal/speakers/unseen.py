"""What SpeakerEmbedding gives an unseen speaker, outside the table or unknown; ours, as the paper doesn't say."""

from abc import ABC, abstractmethod

from torch import Tensor
from typing_extensions import override


class UnseenPolicy(ABC):
    """Makes one embedding for all speakers outside the table."""

    @abstractmethod
    def embed(self, embeddings: Tensor) -> Tensor:
        """From the table's e_s, (speakers, dim), make that of every speaker outside it, (dim,)."""


class Mean(UnseenPolicy):
    """The mean of all e_s."""

    @override
    def embed(self, embeddings: Tensor) -> Tensor:
        return embeddings.mean(0)


class Zero(UnseenPolicy):
    """e_s = 0: with fusion first or last, frames as the encoder makes them; prefix inserts a frame of zeros."""

    @override
    def embed(self, embeddings: Tensor) -> Tensor:
        return embeddings.new_zeros(embeddings.shape[1])
