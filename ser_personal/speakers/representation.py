"""The interface from speaker ids and speaker features to e_s."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, TypedDict

from torch import nn

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor


class SpeakerDescription(TypedDict):
    """What a checkpoint says of its representation, enough to build it before its weights are loaded.

    `name` is that of the class; its weights' shapes depend on `sizes` and on `feature_dim`, 0 where it reads none.
    """

    name: str
    sizes: dict[str, Any]
    speaker_ids: list[str]
    feature_dim: int


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

    @property
    def feature_dim(self) -> int:
        """Width of the speaker features that it holds, 0 where it reads none."""
        return 0

    @abstractmethod
    def build(self, speaker_ids: Sequence[str], dim: int, features: NDArray[np.float32] | None = None) -> None:
        """Make new weights, for an encoder of width `dim` and these speakers, sorted, with features if any."""

    @abstractmethod
    def rebuild(self, description: SpeakerDescription, dim: int) -> None:
        """Make the weights that a checkpoint describes, to be loaded."""

    @property
    def sizes(self) -> dict[str, Any]:
        """Arguments that the shapes of the weights depend on."""
        return {}

    def describe(self) -> SpeakerDescription:
        """Describe speakers and weights for a checkpoint."""
        return SpeakerDescription(
            name=type(self).__name__, sizes=self.sizes, speaker_ids=self.ids, feature_dim=self.feature_dim
        )

    @property
    def settings(self) -> tuple[object, ...]:
        """What e_s depends on apart from weights and description."""
        return ()

    @abstractmethod
    def forward(self, speaker_ids: Sequence[str | None], features: Tensor | None = None) -> Tensor:
        """Embed speakers, None where unknown, -> e_s (batch, dim).

        Their features are (batch, feature_dim), NaN for unknown ones.
        """
