"""The scores as metric state: every device adds its batches, each utterance counts once."""

from __future__ import annotations

import math
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sklearn.metrics import f1_score, recall_score
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from ser_personal.scores import score

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from ser_personal.types import PredictionBatch

_UNKNOWN_SPEAKER = -1


class ConcordanceMetric(Metric):
    """O-CCC and A-CCC of every attribute over all batches of all devices, in float64.

    Samplers repeat utterances so that devices get equal numbers of batches; repeats are known by their index and
    dropped.
    Strings can't be gathered, so speakers are grouped by `speaker_key`; what asks for names computes `score` itself.

    Args:
        attributes: names of the predictions' columns.
        min_utterances: labelled utterances a speaker must have to count in A-CCC.
    """

    full_state_update = False
    predictions: list[Tensor]
    labels: list[Tensor]
    indices: list[Tensor]
    speaker_keys: list[Tensor]

    def __init__(self, attributes: Sequence[str], min_utterances: int = 10, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.attributes = tuple(attributes)
        self.min_utterances = min_utterances
        for state in ("predictions", "labels", "indices", "speaker_keys"):
            self.add_state(state, default=[], dist_reduce_fx="cat")

    def update(self, batch: PredictionBatch) -> None:
        """Add a batch of predictions."""
        device = self.device
        keys = torch.tensor([speaker_key(speaker_id) for speaker_id in batch["speaker_ids"]], dtype=torch.int64)
        self.predictions.append(batch["predictions"].detach().to(device, torch.float32))
        self.labels.append(batch["labels"].detach().to(device, torch.float32))
        self.indices.append(batch["indices"].to(device, torch.int64))
        self.speaker_keys.append(keys.to(device))

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Gather the states of all devices; one that saw no batch brings empty states of the right shape and type.

        torchmetrics would send a float vector for each of them, which can't be gathered with matrices and integers.
        """
        if not self.indices:
            self.predictions.append(torch.empty(0, len(self.attributes), device=self.device))
            self.labels.append(torch.empty(0, len(self.attributes), device=self.device))
            self.indices.append(torch.empty(0, dtype=torch.int64, device=self.device))
            self.speaker_keys.append(torch.empty(0, dtype=torch.int64, device=self.device))
        super().sync(*args, **kwargs)

    def compute(self) -> dict[str, float]:
        """Scores of all utterances seen, each once.

        Returns:
            `{attribute}_{overall_ccc, average_ccc, average_ccc_std, speakers, utterances}` -> value, NaN where
            undefined; flat, since torchmetrics accepts no frozen dataclass here.
        """
        indices = dim_zero_cat(self.indices).cpu().numpy()
        _, first = np.unique(indices, return_index=True)
        keys = dim_zero_cat(self.speaker_keys).cpu().numpy()[first]
        scores = score(
            dim_zero_cat(self.predictions).cpu().numpy()[first],
            dim_zero_cat(self.labels).cpu().numpy()[first],
            [None if key == _UNKNOWN_SPEAKER else str(key) for key in keys],
            self.attributes,
            min_utterances=self.min_utterances,
        )
        flat: dict[str, float] = {}
        for attribute, of in scores.items():
            flat[f"{attribute}_overall_ccc"] = of.overall_ccc
            flat[f"{attribute}_average_ccc"] = of.average_ccc
            flat[f"{attribute}_average_ccc_std"] = of.average_ccc_std
            flat[f"{attribute}_speakers"] = float(of.speakers)
            flat[f"{attribute}_utterances"] = float(of.utterances)
        return flat


def speaker_key(speaker_id: str | None) -> int:
    """A speaker's name as 63 bits, the same in every process (`hash` isn't); -1 is the unknown speaker's own."""
    if speaker_id is None:
        return _UNKNOWN_SPEAKER
    return int.from_bytes(blake2b(speaker_id.encode(), digest_size=8).digest(), "big") >> 1


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
