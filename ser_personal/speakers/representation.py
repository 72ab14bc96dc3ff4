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
    """The speakers, sorted, that a representation is built for, with features (speakers, feature_dim) if any."""

    speaker_ids: list[str]
    features: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class SpeakerAudio:
    """Unlabelled audio that e_s was made from: whose it was, and its utterances as `utterance_hashes` has them."""

    speaker_ids: frozenset[str] = frozenset()
    pretrained_on: frozenset[str] = frozenset()


class SpeakerDescription(TypedDict):
    """What a checkpoint says of its representation, enough to build it before its weights are loaded.

    `name` is that of the class; its weights' shapes depend on `sizes` and on `feature_dim`, 0 where it reads none.
    """

    name: str
    sizes: dict[str, Any]
    speaker_ids: list[str]
    feature_dim: int


@dataclass(frozen=True, eq=False)
class SpeakerQuery:
    """Speakers (batch,) whose embeddings are wanted, None where unknown.

    Their features are (batch, feature_dim), NaN for unknown ones; `as_unseen` (batch,) says who is to be treated as if
    never seen before.
    """

    speaker_ids: Sequence[str | None]
    features: Tensor | None = None
    as_unseen: Sequence[bool] | None = None


class SpeakerRepresentation(nn.Module, ABC):
    """e_s of speakers, (batch, dim); built once speakers and the encoder's width are known."""

    # whom it was built for; nobody where nothing is fused
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
