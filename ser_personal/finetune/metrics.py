"""The scores as metric state: every device adds its batches, each utterance counts once."""

import math
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.functional.classification import multiclass_f1_score, multiclass_recall
from torchmetrics.utilities import dim_zero_cat
from typing_extensions import override

from ser_personal.scores import score
from ser_personal.types import PredictionBatch

NO_EMOTION = -1
_UNKNOWN_SPEAKER = -1


class UtteranceMetric(Metric):
    """Keeps numbers of every utterance, of all batches and devices: so many integers, the first its index, and floats.

    Samplers repeat utterances so that devices get equal numbers of batches: repeats are known by their index.
    """

    full_state_update = False
    integers: list[Tensor]
    floats: list[Tensor]

    def __init__(self, integers: int, floats: int) -> None:
        super().__init__()
        self.widths = integers, floats
        self.add_state("integers", default=[], dist_reduce_fx="cat")
        self.add_state("floats", default=[], dist_reduce_fx="cat")

    def add(self, integers: Sequence[Tensor], floats: Tensor) -> None:
        """Keep columns of integers, each (batch,), and a matrix of floats (batch, columns)."""
        self.integers.append(torch.stack([column.to(self.device, torch.int64) for column in integers], 1))
        self.floats.append(floats.detach().to(self.device, torch.float32))

    @override
    def sync(self, *args: Any, **kwargs: Any) -> None:
        # for a device without a batch torchmetrics would send a float vector, which can't be gathered with matrices
        if not self.integers:
            self.integers.append(torch.empty(0, self.widths[0], dtype=torch.int64, device=self.device))
            self.floats.append(torch.empty(0, self.widths[1], device=self.device))
        super().sync(*args, **kwargs)

    def once(self) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Integers and floats of each utterance, in the order of their indices."""
        integers, floats = dim_zero_cat(self.integers).cpu().numpy(), dim_zero_cat(self.floats).cpu().numpy()
        _, first = np.unique(integers[:, 0], return_index=True)
        return integers[first], floats[first]


class ConcordanceMetric(UtteranceMetric):
    """O-CCC and A-CCC of every attribute over all batches of all devices, in float64.

    Strings can't be gathered, so speakers are grouped by `speaker_key`. One of fewer than `min_utterances` labelled
    utterances doesn't count in A-CCC.
    """

    def __init__(self, attributes: Sequence[str], min_utterances: int = 10) -> None:
        super().__init__(integers=2, floats=2 * len(attributes))
        self.attributes = tuple(attributes)
        self.min_utterances = min_utterances

    @override
    def update(self, batch: PredictionBatch) -> None:
        keys = torch.tensor([speaker_key(speaker_id) for speaker_id in batch["speaker_ids"]], dtype=torch.int64)
        self.add([batch["indices"], keys], torch.cat([batch["predictions"], batch["labels"]], 1))

    @override
    def compute(self) -> dict[str, float]:
        """`{attribute}_{overall_ccc, average_ccc, average_ccc_std, speakers, utterances}` -> value or NaN."""
        integers, floats = self.once()
        predictions, labels = np.split(floats, 2, axis=1)
        speakers = [None if key == _UNKNOWN_SPEAKER else str(key) for key in integers[:, 1]]
        scores = score(predictions, labels, speakers, self.attributes, min_utterances=self.min_utterances)
        found = {
            f"{attribute}_{name}": float(getattr(of, name))
            for attribute, of in scores.items()
            for name in ("overall_ccc", "average_ccc", "average_ccc_std", "speakers", "utterances")
        }
        for attribute, column in zip(self.attributes, labels.T, strict=True):
            # of labels that are all alike it is 0 for any model, and chooses none
            if len(np.unique(column[~np.isnan(column)])) == 1:
                found[f"{attribute}_overall_ccc"] = math.nan
        return found


def speaker_key(speaker_id: str | None) -> int:
    """A speaker's name as 63 bits, the same in every process (`hash` isn't); -1 is the unknown speaker's own."""
    if speaker_id is None:
        return _UNKNOWN_SPEAKER
    return int.from_bytes(blake2b(speaker_id.encode(), digest_size=8).digest(), "big") >> 1


class ClassificationMetric(UtteranceMetric):
    """Macro and weighted F1, and unweighted average recall, over the emotions that occur among the labels."""

    def __init__(self) -> None:
        super().__init__(integers=3, floats=0)

    @override
    def update(self, batch: PredictionBatch) -> None:
        found = batch["predictions"]
        self.add([batch["indices"], found.argmax(1), emotions_of(batch["labels"])], found[:, :0])

    @override
    def compute(self) -> dict[str, float]:
        """`classification_scores`, and in utterances how many have a label."""
        integers, _ = self.once()
        _, predicted, labelled = integers.T
        return classification_scores(predicted, labelled) | {"utterances": float((labelled != NO_EMOTION).sum())}


def classification_scores(predicted: NDArray[np.int64], labelled: NDArray[np.int64]) -> dict[str, float]:
    """macro_f1, weighted_f1, uar -> score over classes (utterances,) that occur as labels, NaN without any label."""
    predicted, labelled = predicted[labelled != NO_EMOTION], labelled[labelled != NO_EMOTION]
    if len(labelled) == 0:
        return {"macro_f1": math.nan, "weighted_f1": math.nan, "uar": math.nan}
    classes = max(2, 1 + int(max(predicted.max(), labelled.max())))
    both = torch.from_numpy(predicted), torch.from_numpy(labelled)
    # by class: torchmetrics' own mean counts what was predicted and isn't among the labels
    f1 = multiclass_f1_score(*both, classes, average="none").double()
    recall = multiclass_recall(*both, classes, average="none").double()
    counts = torch.from_numpy(np.bincount(labelled, minlength=classes))
    return {
        "macro_f1": float(f1[counts > 0].mean()),
        "weighted_f1": float((f1 * counts).sum() / counts.sum()),
        "uar": float(recall[counts > 0].mean()),
    }


def emotions_of(labels: Tensor) -> Tensor:
    """Labels (utterances, emotions), 1 for an utterance's own -> its position, `NO_EMOTION` where there is none."""
    return labels.nan_to_num().argmax(1).masked_fill(labels.isnan().any(1), NO_EMOTION)
