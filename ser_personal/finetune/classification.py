"""Fine-tuning for categorical emotion by cross-entropy, for corpora without emotion attributes (ours)."""

from math import log
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from typing_extensions import override

from ser_personal.errors import UserError, as_names
from ser_personal.finetune.concordance import labelled_mean
from ser_personal.finetune.metrics import ClassificationMetric
from ser_personal.finetune.module import PREDICTS, FineTuning
from ser_personal.types import EmotionBatch, PredictionBatch, TrainingSet


class EmotionClassification(FineTuning):
    """Predicts the probability of each emotion; trained by cross-entropy. Ours.

    Utterances of other emotions than these, or of none, are left out of loss and scores.

    Args:
        emotions: the classes; every emotion of the training set if None.
        **kwargs: encoder, speakers, interpreter and how they learn, as in `FineTuning`.
    """

    targets = "emotions"

    def __init__(self, emotions: list[str] | None = None, **kwargs: Any) -> None:
        chosen = as_names("emotions", emotions or [])
        if len(set(chosen)) < len(chosen):
            raise UserError(f"{', '.join(chosen)}: one is named twice", where="emotions", remedy="Name each once")
        super().__init__(**kwargs)
        self.emotions = list(chosen)
        self.loss = cross_entropy
        self.metric = ClassificationMetric()

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
        labels = torch.tensor(rows, device=batch["indices"].device).reshape(-1, len(self.emotions))
        return labels.masked_fill(labels.sum(1, keepdim=True) == 0, torch.nan)

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
            if len(self.emotions) < 2 or not {*self.emotions} <= {*counts}:
                raise UserError(
                    f"can't be {', '.join(self.emotions) or 'none'}: the corpus has {', '.join(counts) or 'none'}",
                    where="--model.emotions",
                    remedy="Give two at least that the corpus has, or train on emotion attributes: finetune.yaml",
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
        result: PredictionBatch = self(batch)
        result["predictions"] = result["predictions"].float().softmax(1)
        return result


def cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean cross-entropy of labelled utterances, finite for any batch; 0 where none is labelled.

    Of logits and labels (batch, emotions), 1 for an utterance's own and NaN where there is no label.
    """
    labelled = ~labels.isnan().any(1, keepdim=True)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32)).where(labelled, 0)
    losses = functional.cross_entropy(logits, labels.nan_to_num().to(logits.dtype), reduction="none")
    return labelled_mean(losses[:, None], labelled, weights)
