"""Fine-tuning for emotion attributes by the concordance correlation coefficient."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from jsonargparse.typing import PositiveInt
from typing_extensions import override

from ser_personal.errors import UserError
from ser_personal.finetune.base import FineTuning
from ser_personal.finetune.losses import CCCLoss, EmotionLoss
from ser_personal.finetune.metrics import ConcordanceMetric
from ser_personal.types import ATTRIBUTES, Attribute

if TYPE_CHECKING:
    from torch import Tensor

    from ser_personal.types import EmotionBatch, TrainingSet


class EmotionFineTuning(FineTuning):
    """Predicts emotion attributes of an utterance; trained by 1 - CCC (paper, section 2.2, and the authors' code).

    Without `papt_checkpoint` this is Vanilla-FT; from a PAPT run with `fusion` none it is TAPT-FT, else PAPT-FT.

    Args:
        attributes: what to predict; the paper trains one model an attribute.
        loss: what is minimised; the paper's 1 - CCC if None.
        min_utterances: labelled utterances a speaker must have to count in A-CCC (ours).
        **kwargs: encoder, speakers, interpreter and how they learn, as in `FineTuning`.

    Raises:
        UserError: no attribute or one twice, or parts that don't go together.
    """

    targets = "attributes"

    def __init__(
        self,
        attributes: tuple[Attribute, ...] = ("arousal",),
        loss: EmotionLoss | None = None,
        min_utterances: PositiveInt = 10,
        **kwargs: Any,
    ) -> None:
        if not attributes or len(set(attributes)) < len(attributes):
            raise UserError(
                "names no attribute" if not attributes else f"names an attribute twice: {', '.join(attributes)}",
                where="attributes",
                remedy=f"Choose among {', '.join(ATTRIBUTES)}, each once",
            )
        super().__init__(**kwargs)
        self.attributes = list(attributes)
        self.loss = loss or CCCLoss()
        self.validation_metric = ConcordanceMetric(self.attributes, min_utterances)
        self.test_metric = ConcordanceMetric(self.attributes, min_utterances)

    @property
    @override
    def outputs(self) -> int:
        return len(self.attributes)

    @override
    def initial_outputs(self, training_set: TrainingSet) -> list[float]:
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

    @override
    def labels_of(self, batch: EmotionBatch) -> Tensor:
        return batch["labels"][:, [ATTRIBUTES.index(attribute) for attribute in self.attributes]]

    @override
    def task_loss(self, outputs: Tensor, labels: Tensor, weights: Tensor | None) -> Tensor:
        loss: Tensor = self.loss(outputs, labels, weights)
        return loss

    @override
    def log_scores(self, stage: str, scores: dict[str, float]) -> None:
        """Log each attribute's O-CCC and A-CCC, and the mean of the defined O-CCC, which chooses the best model."""
        self.log_dict({f"{stage}_{name}": value for name, value in scores.items()}, rank_zero_only=False)
        overall = np.array([scores[f"{attribute}_overall_ccc"] for attribute in self.attributes])
        defined = overall[~np.isnan(overall)]
        self.log(f"{stage}_ccc", float(defined.mean()) if len(defined) else np.nan, prog_bar=stage == "val")
