"""Speaker embeddings made from speaker features, fixed or by a trained embedder; both work for unseen speakers."""

from abc import abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from jsonargparse.typing import ClosedUnitInterval, PositiveInt
from numpy.typing import NDArray
from torch import Tensor, nn
from typing_extensions import override

from ser_personal.errors import UserError
from ser_personal.speakers.embedding import SpeakerRepresentation


class FeatureRepresentation(SpeakerRepresentation):
    """e_s made of `--data.speaker_features`, standardised over the training speakers; unknown ones count as average."""

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(0))
        self.register_buffer("std", torch.ones(0))

    @override
    def build(self, speaker_ids: Sequence[str], dim: int, features: NDArray[np.float32] | None = None) -> None:
        if features is None:
            remedy = "Give --data.speaker_features, such as a feature cache or a table of speaker vectors"
            raise UserError("there are no speaker features", where=type(self).__name__, remedy=remedy)
        self.ids, self.feature_dim = list(speaker_ids), features.shape[1]
        exact = torch.from_numpy(features).double()
        self.mean = exact.mean(0).float()
        # a column that is alike for all training speakers is ignored
        std = exact.std(0, correction=0)
        self.std = torch.where(std > 1e-6 * exact.abs().amax(0), std, torch.inf).float()
        self._make(dim)

    @abstractmethod
    def _make(self, dim: int) -> None:
        """Make the weights from the features to e_s."""

    @override
    def forward(self, speaker_ids: Sequence[str | None], features: Tensor | None = None) -> Tensor:
        width = 0 if features is None else features.shape[1]
        if features is None or width != self.feature_dim:
            what = f"the model reads {self.feature_dim} speaker features, the data has {width}"
            remedy = "Give features of the kind that the model was trained with"
            raise UserError(what, where="--data.speaker_features", remedy=remedy)
        return self.embed(((features - self.mean) / self.std).nan_to_num(0.0))

    @abstractmethod
    def embed(self, features: Tensor) -> Tensor:
        """Make e_s of standardised features (batch, feature_dim); unknown speakers' are 0."""


class FixedSpeakerFeatures(FeatureRepresentation):
    """e_s is the speaker's features, not learnt; by a fixed random projection where the frames' width differs. Ours."""

    is_learnt = False
    projection: Tensor | None

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("projection", None)

    @override
    def _make(self, dim: int) -> None:
        drawn = torch.randn(self.feature_dim, dim, generator=torch.Generator().manual_seed(0))
        self.projection = None if self.feature_dim == dim else drawn / dim**0.5

    @override
    def embed(self, features: Tensor) -> Tensor:
        return features if self.projection is None else features @ self.projection


class SpeakerEmbedder(FeatureRepresentation):
    """e_s is made of the speaker's features by a small MLP, which unlike a table covers unseen speakers. Ours.

    Its last layer starts at zero, as the table's does: training begins without personalisation.

    Args:
        hidden_dims: width of each hidden layer.
        dropout: of each hidden layer.
    """

    sizes = ("hidden_dims",)

    def __init__(self, hidden_dims: tuple[PositiveInt, ...] = (128,), dropout: ClosedUnitInterval = 0.1) -> None:
        super().__init__()
        self.hidden_dims = hidden_dims
        self.dropout = dropout

    @override
    def _make(self, dim: int) -> None:
        layers: list[nn.Module] = []
        width = self.feature_dim
        for hidden in self.hidden_dims:
            layers += [nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(self.dropout)]
            width = hidden
        last = nn.Linear(width, dim)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.layers = nn.Sequential(*layers, last)

    @override
    def embed(self, features: Tensor) -> Tensor:
        embeddings: Tensor = self.layers(features)
        return embeddings
