"""The interface from speaker ids and speaker features to e_s."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict

from torch import nn

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class SpeakerSet:
    """The speakers that a representation is built for.

    Attributes:
        speaker_ids: (speakers,), sorted.
        features: (speakers, feature_dim); None where there are none.
    """

    speaker_ids: list[str]
    features: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class SpeakerAudio:
    """Unlabelled audio that e_s was made from.

    Attributes:
        speaker_ids: whose it was.
        splits: sets that it belonged to.
    """

    speaker_ids: frozenset[str] = frozenset()
    splits: frozenset[str] = frozenset()


class SpeakerDescription(TypedDict):
    """What a checkpoint says of its representation, enough to build it before its weights are loaded.

    Attributes:
        name: of the class.
        sizes: arguments that its weights' shapes depend on.
        speaker_ids: of the speakers it was built for.
        feature_dim: width of the speaker features, 0 where it reads none.
    """

    name: str
    sizes: dict[str, Any]
    speaker_ids: list[str]
    feature_dim: int


@dataclass(frozen=True, eq=False)
class SpeakerQuery:
    """Speakers whose embeddings are wanted.

    Attributes:
        speaker_ids: (batch,), None where unknown.
        features: (batch, feature_dim), NaN for unknown speakers; None where there are none.
        as_unseen: (batch,), who is to be treated as if never seen before.
    """

    speaker_ids: Sequence[str | None]
    features: Tensor | None = None
    as_unseen: Sequence[bool] | None = None


class SpeakerRepresentation(nn.Module, ABC):
    """e_s of speakers, (batch, dim); built once speakers and the encoder's width are known.

    Attributes:
        ids: speakers that it was built for; empty where nothing is fused.
    """

    ids: list[str]

    @abstractmethod
    def build(self, speakers: SpeakerSet, dim: int) -> None:
        """Make new weights, for these speakers and an encoder of width `dim`."""

    @abstractmethod
    def rebuild(self, description: SpeakerDescription, dim: int) -> None:
        """Make the weights that a checkpoint describes, to be loaded."""

    @abstractmethod
    def clear(self) -> None:
        """Forget speakers and weights, where nothing is fused."""

    @abstractmethod
    def describe(self) -> SpeakerDescription:
        """Describe speakers and weights for a checkpoint."""

    @property
    @abstractmethod
    def settings(self) -> tuple[object, ...]:
        """What e_s depends on apart from weights and description."""

    @property
    @abstractmethod
    def is_learnt(self) -> bool:
        """Whether e_s has to be learnt, in pre-training or in fine-tuning."""

    @property
    def speaker_audio(self) -> SpeakerAudio:
        """Audio that e_s of speakers beyond its own was made from."""
        return SpeakerAudio()

    @property
    def lacks_features(self) -> bool:
        """Whether it needs features of its speakers and has none yet."""
        return False

    def set_features(self, speakers: SpeakerSet) -> None:
        """Take the features of its speakers, where it lacks them."""

    @abstractmethod
    def forward(self, query: SpeakerQuery) -> Tensor:
        """Embed speakers, -> e_s (batch, dim)."""
