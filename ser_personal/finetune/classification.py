"""Fine-tuning for categorical emotion by cross-entropy, for corpora without emotion attributes (ours)."""

from __future__ import annotations

from math import log
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional
from typing_extensions import override

from ser_personal.errors import UserError, as_names
from ser_personal.finetune.concordance import labelled_mean
from ser_personal.finetune.metrics import ClassificationMetric
from ser_personal.finetune.module import PREDICTS, FineTuning

if TYPE_CHECKING:
    from torch import Tensor

    from ser_personal.types import EmotionBatch, PredictionBatch, TrainingSet


class EmotionClassification(FineTuning):
    """Predicts the probability of each emotion; trained by cross-entropy. Ours.

    Utterances of other emotions than these, or of none, are left out of loss and scores.

    Args:
        emotions: the classes; every emotion of the training set if None.
        **kwargs: encoder, speakers, interpreter and how they learn, as in `FineTuning`.

    Raises:
        UserError: fewer than two emotions, one twice, or parts that don't go together.
    """

    targets = "emotions"

    def __init__(self, emotions: list[str] | None = None, **kwargs: Any) -> None:
        chosen = as_names("emotions", emotions or [])
        if emotions is not None and (len(chosen) < 2 or len(set(chosen)) < len(chosen)):
            raise UserError(
                f"{', '.join(chosen) or 'nothing'}: fewer than two classes, or one twice",
                where="emotions",
                remedy="Name two emotions at least, each once",
            )
        super().__init__(**kwargs)
        self.emotions = list(chosen)
        self.validation_metric = ClassificationMetric()
        self.test_metric = ClassificationMetric()

    @property
    @override
    def num_outputs(self) -> int:
        return len(self.emotions)

    @override
    def initial_outputs(self, training_set: TrainingSet) -> list[float]:
        """Logits of the emotions' shares in the training set."""
        counts = training_set.train_emotions
        total = sum(counts[emotion] for emotion in self.emotions)
        return [log(counts[emotion] / total) for emotion in self.emotions]

    @override
    def labels_of(self, batch: EmotionBatch) -> Tensor:
        """1 for an utterance's own emotion, else 0; NaN for one that is none of the classes."""
        rows = [[float(emotion == own) for emotion in self.emotions] for own in batch["emotions"]]
        labels = torch.tensor(rows, device=batch["indices"].device).reshape(-1, self.num_outputs)
        return labels.masked_fill(labels.sum(1, keepdim=True) == 0, torch.nan)

    @override
    def task_loss(self, outputs: Tensor, labels: Tensor, weights: Tensor | None) -> Tensor:
        return cross_entropy(outputs, labels, weights)

    @override
    def log_scores(self, stage: str, scores: dict[str, float]) -> None:
        """Log macro and weighted F1, and the unweighted average recall (UAR), which chooses the best model."""
        self.log_dict({f"{stage}_{name}": value for name, value in scores.items() if name != "uar"})
        self.log(f"{stage}_uar", scores["uar"], prog_bar=stage == "val")

    @override
    def build(self, training_set: TrainingSet) -> None:
        if self.hparams["initial_checkpoint"] is None:
            counts = training_set.train_emotions
            self.emotions = self.emotions or list(counts)
            for emotion in self.emotions:
                if emotion not in counts:
                    raise UserError(
                        f"no training utterance is of {emotion}",
                        where="--model.emotions",
                        remedy=f"Choose among {', '.join(counts) or 'none: this corpus has no categorical emotion'}",
                    )
            if len(self.emotions) < 2:
                raise UserError(
                    f"the training set has {len(self.emotions)} categorical emotions",
                    where="EmotionClassification",
                    remedy="Give a corpus with two at least, or train on emotion attributes: configs/finetune.yaml",
                )
            self.hparams["emotions"] = self.emotions
        super().build(training_set)

    @override
    def rebuild(self, checkpoint: dict[str, Any]) -> None:
        self.emotions = list(checkpoint[PREDICTS])
        self.hparams["emotions"] = self.emotions
        super().rebuild(checkpoint)

    @override
    def predict_step(self, batch: EmotionBatch, batch_idx: int) -> PredictionBatch:
        result = super().predict_step(batch, batch_idx)
        result["predictions"] = result["predictions"].float().softmax(1)
        return result


def cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean cross-entropy of labelled utterances, finite for any batch; 0 where none is labelled.

    Args:
        logits: (batch, emotions).
        labels: (batch, emotions), 1 for an utterance's own; NaN where there is no label.
        weights: (batch,), what each utterance counts; all alike if None.
    """
    labelled = ~labels.isnan().any(1, keepdim=True)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32)).where(labelled, 0)
    losses = functional.cross_entropy(logits, labels.nan_to_num().to(logits.dtype), reduction="none")
    return labelled_mean(losses[:, None], labelled, weights)
