"""A trained model without its training: waveforms -> pooled vectors and predictions, in batches of similar lengths."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import nn

from ser_personal.audio import SAMPLE_RATE
from ser_personal.data.batching import batch_sizes
from ser_personal.data.dataset import SpeechExample, collate_speech
from ser_personal.encoder.base import mean_pool
from ser_personal.speakers.representation import SpeakerQuery

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from ser_personal.encoder.personalized import PersonalizedEncoder
    from ser_personal.finetune.interpreters import Interpreter
    from ser_personal.types import SpeechBatch

BATCH_SECONDS = 60
MAX_BATCH = 32


class Recognized(NamedTuple):
    """What the model says of some utterances.

    Attributes:
        pooled: (utterances, dim).
        predictions: (utterances, attributes), label points.
    """

    pooled: NDArray[np.float64]
    predictions: NDArray[np.float64]


class EmotionNetwork(nn.Module):
    """The networks of `EmotionFineTuning`, under the names that its checkpoints give their weights.

    Args:
        personalized: encoder, speaker table and fusion, built.
        interpreter: the head, built.
    """

    def __init__(self, personalized: PersonalizedEncoder, interpreter: Interpreter) -> None:
        super().__init__()
        self.personalized = personalized
        self.interpreter = interpreter

    @property
    def dim(self) -> int:
        """Width of `pooled`."""
        return self.personalized.dim

    def forward(self, batch: SpeechBatch) -> tuple[Tensor, Tensor]:
        """`pooled` (batch, dim) and predictions (batch, attributes)."""
        output = self.personalized(batch)
        return mean_pool(output), self.interpreter(output)

    def check_speaker(self, speaker_id: str | None) -> None:
        """Refuse a speaker outside the embedding table where the model wants one inside it.

        Raises:
            UserError: the policy for unseen speakers refuses this one.
        """
        if self.personalized.fusion_name != "none":
            self.embed([speaker_id])

    def embed(self, speaker_ids: Sequence[str | None]) -> Tensor:
        """e_s of speakers of whom nothing is known beside their names, (speakers, dim)."""
        embeddings: Tensor = self.personalized.speakers(SpeakerQuery(speaker_ids, self._unknown(len(speaker_ids))))
        return embeddings

    def _unknown(self, speakers: int) -> Tensor:
        """Features of unknown speakers, (speakers, feature_dim): a recording brings none along."""
        width = self.personalized.speakers.describe()["feature_dim"]
        return torch.full((speakers, width), torch.nan, device=self._device)

    def recognize(self, waveforms: Sequence[NDArray[np.float32]], speaker_ids: Sequence[str | None]) -> Recognized:
        """Predict utterances; what comes out of each doesn't depend on the others.

        Args:
            waveforms: (samples,) each, 16 kHz, none shorter than one frame.
            speaker_ids: of the embedding table, None for speakers outside it.
        """
        if len(waveforms) == 0:
            return Recognized(np.zeros((0, self.dim)), np.zeros((0, 0)))
        lengths = np.array([len(waveform) for waveform in waveforms], dtype=np.int64)
        order = np.argsort(-lengths, kind="stable")
        budget = max(BATCH_SECONDS * SAMPLE_RATE, int(lengths.max(initial=0)))
        cuts = np.cumsum(batch_sizes(lengths[order], budget, MAX_BATCH))
        batches = [
            collate_speech([SpeechExample(int(row), speaker_ids[row], waveforms[row]) for row in rows])
            for rows in np.split(order, cuts)[:-1]
        ]
        self.eval()
        recognized = self._side_by_side(batches)
        back = np.argsort(order)
        return Recognized(*(np.concatenate(parts)[back] for parts in zip(*recognized, strict=True)))

    def _side_by_side(self, batches: Sequence[SpeechBatch]) -> list[Recognized]:
        """A core a batch: cores that share a small model's products wait for each other more than they compute."""
        cores = torch.get_num_threads() if self._device.type == "cpu" else 1
        try:
            with ThreadPoolExecutor(cores, initializer=torch.set_num_threads, initargs=(1,)) as threads:
                return list(threads.map(self._recognize, batches))
        finally:
            torch.set_num_threads(cores)

    def _recognize(self, batch: SpeechBatch) -> Recognized:
        batch["waveforms"] = batch["waveforms"].to(self._device)
        batch["num_samples"] = batch["num_samples"].to(self._device)
        batch["speaker_features"] = self._unknown(len(batch["speaker_ids"]))
        with torch.inference_mode():
            pooled, predictions = self(batch)
        return Recognized(pooled.double().cpu().numpy(), predictions.double().cpu().numpy())

    @property
    def _device(self) -> torch.device:
        return next(self.parameters()).device
