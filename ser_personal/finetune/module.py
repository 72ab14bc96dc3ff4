"""Fine-tuning for emotion attributes by the concordance correlation coefficient."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ser_personal.encoder.pooling import mean_pool
from ser_personal.errors import UserError
from ser_personal.finetune.base import FineTuning
from ser_personal.finetune.losses import CCCLoss, EmotionLoss
from ser_personal.finetune.metric import ConcordanceMetric
from ser_personal.ranges import require_range
from ser_personal.types import ATTRIBUTES, Attribute, PredictionBatch

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

    def forward(self, batch: EmotionBatch, as_unseen: Sequence[bool] | None = None) -> PredictionBatch:
        """Predict a batch, some of it as if its speakers had never been seen before."""
        output = self.personalized(batch, as_unseen=as_unseen)
        return PredictionBatch(
            indices=batch["indices"],
            speaker_ids=batch["speaker_ids"],
            pooled=mean_pool(output),
            predictions=self.interpreter(output),
            labels=batch["labels"][:, self.columns],
        )

    def training_step(self, batch: EmotionBatch, batch_idx: int) -> Tensor:
        """The loss of this device's batch."""
        result = self(batch, self.draw_unseen(batch))
        loss: Tensor = self.loss(result["predictions"], result["labels"])
        self.log("train_loss", loss, prog_bar=True, batch_size=len(batch["indices"]))
        return loss

    def validation_step(self, batch: EmotionBatch, batch_idx: int) -> PredictionBatch:
        """Predict, for O-CCC and A-CCC over the whole set."""
        result: PredictionBatch = self(batch)
        self.validation_metric.update(result)
        return result

    def test_step(self, batch: EmotionBatch, batch_idx: int) -> PredictionBatch:
        """Predict, for O-CCC and A-CCC over the whole set, and for callbacks such as PLDC."""
        result: PredictionBatch = self(batch)
        self.test_metric.update(result)
        return result

    def predict_step(self, batch: EmotionBatch, batch_idx: int) -> PredictionBatch:
        """Predict."""
        result: PredictionBatch = self(batch)
        return result

    def on_validation_epoch_end(self) -> None:
        """Log each attribute's O-CCC and A-CCC, and `val_ccc`, the mean of the defined O-CCC, that training goes by."""
        self._log_scores("val", self.validation_metric, prog_bar=True)

    def on_test_epoch_end(self) -> None:
        """Log each attribute's O-CCC and A-CCC."""
        self._log_scores("test", self.test_metric)

    def _log_scores(self, stage: str, metric: ConcordanceMetric, *, prog_bar: bool = False) -> None:
        scores = metric.compute()
        metric.reset()
        self.log_dict({f"{stage}_{name}": value for name, value in scores.items()}, rank_zero_only=False)
        overall = np.array([scores[f"{attribute}_overall_ccc"] for attribute in self.attributes])
        defined = overall[~np.isnan(overall)]
        self.log(f"{stage}_ccc", float(defined.mean()) if len(defined) else np.nan, prog_bar=prog_bar)


def _require_distinct(attributes: Sequence[Attribute]) -> None:
    if not attributes or len(set(attributes)) < len(attributes):
        raise UserError(
            "names no attribute" if not attributes else f"names an attribute twice: {', '.join(attributes)}",
            where="attributes",
            remedy=f"Choose among {', '.join(ATTRIBUTES)}, each once",
        )
