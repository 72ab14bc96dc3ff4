"""Which training speakers a fit adapts to the test's speakers with, and how much each counts: a seam for strategies."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, TypeVar

import torch

from ser_personal.types import EmotionBatch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ser_personal.types import Utterance

Example = TypeVar("Example")


@dataclass(frozen=True)
class AdaptationSet:
    """Training speakers to adapt with.

    Attributes:
        copies: speaker -> how often each of their utterances enters an epoch; the others' don't.
        weights: speaker -> what each of their utterances counts in the loss; 1 where none is given.
        chosen: target speaker -> training speakers that were chosen for them, nearest first.
    """

    copies: Mapping[str, int]
    weights: Mapping[str, float] = field(default_factory=dict)
    chosen: Mapping[str, Sequence[str]] = field(default_factory=dict)


class Adaptation(ABC):
    """Chooses the training speakers that a fit goes on with."""

    @abstractmethod
    def choose(self, training: Sequence[Utterance], targets: Sequence[Utterance]) -> AdaptationSet:
        """Choose training speakers for the speakers of some target utterances, whose labels aren't looked at.

        Raises:
            UserError: there is nobody to choose for, or from.
        """


class AddWeights(Generic[Example]):
    """A collate function that adds to what another one makes what each utterance counts in the loss.

    Args:
        collate: examples -> batch.
        weights: speaker -> weight; 1 where none is given.
    """

    def __init__(self, collate: Callable[[Sequence[Example]], EmotionBatch], weights: Mapping[str, float]) -> None:
        self.collate, self.weights = collate, weights

    def __call__(self, examples: Sequence[Example]) -> EmotionBatch:
        """Make a batch."""
        batch = self.collate(examples)
        batch["weights"] = torch.tensor([self.weights.get(id_ or "", 1.0) for id_ in batch["speaker_ids"]])
        return batch
