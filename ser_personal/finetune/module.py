"""Fine-tuning for emotion attributes by the concordance correlation coefficient."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ser_personal.errors import UserError, require_range
from ser_personal.finetune.base import FineTuning
from ser_personal.finetune.losses import CCCLoss, EmotionLoss
from ser_personal.finetune.metrics import ConcordanceMetric
from ser_personal.types import ATTRIBUTES, Attribute

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from ser_personal.types import EmotionBatch, TrainingSet


class EmotionFineTuning(FineTuning):
    """Predicts emotion attributes of an utterance; trained by 1 - CCC (paper, section 2.2, and the authors' code).

    Args:
        attributes: what to predict; the paper trains one model an attribute.
        loss: what is minimised; the paper's 1 - CCC if None.
        min_utterances: labelled utterances a speaker must have to count in A-CCC (ours).
        **kwargs: encoder, speakers, interpreter and how they learn, as in `FineTuning`.

    Raises:
        UserError: no attribute or one twice, or a number out of its range.
    """

    targets = "attributes"

    def __init__(
        self,
        attributes: tuple[Attribute, ...] = ("arousal",),
        loss: EmotionLoss | None = None,
        min_utterances: int = 10,
        **kwargs: Any,
    ) -> None:
        _require_distinct(attributes)
        require_range("min_utterances", min_utterances, 1)
        super().__init__(**kwargs)
        self.attributes = list(attributes)
        self.columns = [ATTRIBUTES.index(attribute) for attribute in attributes]
        self.loss = loss or CCCLoss()
        self.validation_metric = ConcordanceMetric(self.attributes, min_utterances)
        self.test_metric = ConcordanceMetric(self.attributes, min_utterances)

    @property
    def outputs(self) -> int:
        """One value an attribute."""
        return len(self.attributes)

    def first_outputs(self, training_set: TrainingSet) -> list[float]:
        """The training labels' means: from 0, training by CCC stalls on labels of 1 to 7."""
        label_mean = training_set.train_label_mean
        for attribute in self.attributes:
            if attribute not in label_mean:
                raise UserError(
                    f"no training utterance has a label of {attribute}",
                    where="--model.attributes",
                    remedy=f"Choose among {', '.join(label_mean) or 'none: this corpus has no labels'}",
                )
        return [label_mean[attribute] for attribute in self.attributes]

    def labels_of(self, batch: EmotionBatch) -> Tensor:
        """The attributes' labels."""
        return batch["labels"][:, self.columns]

    def task_loss(self, outputs: Tensor, labels: Tensor, weights: Tensor | None) -> Tensor:
        """The chosen loss."""
        loss: Tensor = self.loss(outputs, labels, weights)
        return loss

    def log_scores(self, stage: str, scores: dict[str, float]) -> None:
        """Log each attribute's O-CCC and A-CCC, and the mean of the defined O-CCC, by which training goes."""
        self.log_dict({f"{stage}_{name}": value for name, value in scores.items()}, rank_zero_only=False)
        overall = np.array([scores[f"{attribute}_overall_ccc"] for attribute in self.attributes])
        defined = overall[~np.isnan(overall)]
        self.log(f"{stage}_ccc", float(defined.mean()) if len(defined) else np.nan, prog_bar=stage == "val")


def _require_distinct(attributes: Sequence[Attribute]) -> None:
    if not attributes or len(set(attributes)) < len(attributes):
        raise UserError(
            "names no attribute" if not attributes else f"names an attribute twice: {', '.join(attributes)}",
            where="attributes",
            remedy=f"Choose among {', '.join(ATTRIBUTES)}, each once",
        )
