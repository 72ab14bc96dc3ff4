"""The interface from speaker ids and speaker features to e_s."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypedDict

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
    """Audio that speaker embeddings were learnt from, without labels: its speakers, and hashes of its utterances."""

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
    """Speakers (batch,) to embed, None where unknown.

    Their features are (batch, feature_dim), NaN for unknown ones; `as_unseen` (batch,) says who is to be treated as if
    never seen before.
    """

    speaker_ids: Sequence[str | None]
    features: Tensor | None = None
    as_unseen: Sequence[bool] | None = None


class SpeakerRepresentation(nn.Module, ABC):
    """e_s of speakers, (batch, dim); built once speakers and the encoder's width are known."""

    # the speakers it was built for; none where nothing is fused
    ids: list[str]
    # those of another corpus who are called as some of them: others, with no e_s of their own
    namesakes: frozenset[str] = frozenset()
    # a name is one person, in whatever corpus
    same_names: bool = True
    # whether e_s has weights to learn, in pre-training or in fine-tuning
    is_learnt: ClassVar[bool] = True

    @abstractmethod
    def build(self, speakers: SpeakerSet, dim: int) -> None:
        """Make new weights, for these speakers and an encoder of width `dim`."""

    @abstractmethod
    def rebuild(self, description: SpeakerDescription, dim: int) -> None:
        """Make the weights that a checkpoint describes, to be loaded."""

    @property
    def sizes(self) -> dict[str, Any]:
        """Arguments that the shapes of the weights depend on."""
        return {}

    @property
    @abstractmethod
    def feature_dim(self) -> int:
        """Width of the speaker features that it holds, 0 where it reads none."""

    def describe(self) -> SpeakerDescription:
        """Describe speakers and weights for a checkpoint."""
        return SpeakerDescription(
            name=type(self).__name__, sizes=self.sizes, speaker_ids=self.ids, feature_dim=self.feature_dim
        )

    @property
    def settings(self) -> tuple[object, ...]:
        """What e_s depends on apart from weights and description."""
        return ()

    @property
    def speaker_audio(self) -> SpeakerAudio:
        """Audio that the embeddings of other speakers than its own were learnt from."""
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
