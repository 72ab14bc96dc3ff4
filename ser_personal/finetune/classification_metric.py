"""Scores of categorical emotion over all batches of all devices."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sklearn.metrics import f1_score, recall_score
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from ser_personal.types import PredictionBatch

NO_EMOTION = -1


class ClassificationMetric(Metric):
    """Macro and weighted F1, and unweighted average recall, over the emotions that occur among the labels.

    Samplers repeat utterances so that devices get equal numbers of batches; repeats are known by their index and
    dropped.
    """

    full_state_update = False
    predicted: list[Tensor]
    labelled: list[Tensor]
    indices: list[Tensor]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for state in ("predicted", "labelled", "indices"):
            self.add_state(state, default=[], dist_reduce_fx="cat")

    def update(self, batch: PredictionBatch) -> None:
        """Add a batch, whose predictions and labels are (batch, emotions)."""
        labels = batch["labels"].detach().to(self.device)
        emotions = labels.nan_to_num().argmax(1).masked_fill(labels.isnan().any(1), NO_EMOTION)
        self.predicted.append(batch["predictions"].detach().to(self.device).argmax(1))
        self.labelled.append(emotions)
        self.indices.append(batch["indices"].to(self.device, torch.int64))

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Gather the states of all devices; one that saw no batch brings empty states of the right type."""
        if not self.indices:
            for state in (self.predicted, self.labelled, self.indices):
                state.append(torch.empty(0, dtype=torch.int64, device=self.device))
        super().sync(*args, **kwargs)

    def compute(self) -> dict[str, float]:
        """Scores of all labelled utterances seen, each once.

        Returns:
            macro_f1, weighted_f1, uar -> score, NaN without any label; utterances -> how many have one.
        """
        _, first = np.unique(dim_zero_cat(self.indices).cpu().numpy(), return_index=True)
        labelled = dim_zero_cat(self.labelled).cpu().numpy()[first]
        predicted = dim_zero_cat(self.predicted).cpu().numpy()[first]
        return classification_scores(predicted, labelled) | {"utterances": float((labelled != NO_EMOTION).sum())}


def classification_scores(predicted: NDArray[np.int64], labelled: NDArray[np.int64]) -> dict[str, float]:
    """Score classes (utterances,) over those that occur among the labels; what has no label counts nowhere.

    Returns:
        macro_f1, weighted_f1, uar -> score, NaN without any label.
    """
    predicted, labelled = predicted[labelled != NO_EMOTION], labelled[labelled != NO_EMOTION]
    if len(labelled) == 0:
        return {"macro_f1": math.nan, "weighted_f1": math.nan, "uar": math.nan}
    among = {"labels": np.unique(labelled), "zero_division": 0.0}
    return {
        "macro_f1": float(f1_score(labelled, predicted, average="macro", **among)),
        "weighted_f1": float(f1_score(labelled, predicted, average="weighted", **among)),
        "uar": float(recall_score(labelled, predicted, average="macro", **among)),
    }


def emotions_of(labels: NDArray[np.floating[Any]]) -> NDArray[np.int64]:
    """Labels (utterances, emotions), 1 for an utterance's own -> which that is, `NO_EMOTION` where nobody said."""
    return np.where(np.isnan(labels).any(1), NO_EMOTION, np.nan_to_num(labels).argmax(1))
