"""The scores as metric state: every device adds its batches, each utterance counts once."""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from ser_personal.finetune.scores import score

if TYPE_CHECKING:
    from collections.abc import Sequence

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
