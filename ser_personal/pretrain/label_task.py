"""The second pass: every frame becomes the id of its nearest centroid."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from ser_personal.data.bad_audio import list_in
from ser_personal.errors import UserError
from ser_personal.gathering import gather_files, on_first_process
from ser_personal.pretrain.codebook import nearest_centroid
from ser_personal.pretrain.teacher_pass import by_utterance

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

    from ser_personal.data.loader import SpeechLoader
    from ser_personal.data.pseudo_label_shards import PseudoLabelShards
    from ser_personal.data.pseudo_labels import PseudoLabelWriter
    from ser_personal.pretrain.codebook import Codebook
    from ser_personal.pretrain.pseudo_label_data import PseudoLabelData
    from ser_personal.types import EncoderOutput, SpeechBatch


class LabelTask:
    """Writes the ids of utterances that have none yet, each process into its own shard, and joins the shards.

    Args:
        data: what gets pseudo-labels.
        codebook: whose centroids.
        shards: where the ids go.
    """

    title = "Writing pseudo-labels"

    def __init__(self, data: PseudoLabelData, codebook: Codebook, shards: PseudoLabelShards) -> None:
        self.data, self.shards = data, shards
        self._centroids = torch.from_numpy(codebook.centroids)
        self._writer: PseudoLabelWriter | None = None

    def loader(self, trainer: Trainer) -> SpeechLoader[SpeechBatch]:
        """See `PassTask`.

        Batches keep their make-up, on which a network's rounding depends: one that was broken off is run again whole.
        """
        if trainer.is_global_zero:
            list_in(self.shards.folder, self.data.skipped_audio)
        batches = self.data.batches()
        left = on_first_process(trainer, lambda: self._unwritten(batches))
        self._writer = self.shards.writer(trainer.global_rank)
        return self.data.loader([batches[number] for number in left[trainer.global_rank :: trainer.world_size]])

    def _unwritten(self, batches: list[list[int]]) -> list[int]:
        written = self.shards.begin()
        return [number for number, batch in enumerate(batches) if not written.issuperset(self._ids_of(batch))]

    def _ids_of(self, batch: list[int]) -> list[str]:
        return [self.data.utterances[index].utterance_id for index in batch]

    def take(self, batch: SpeechBatch, output: EncoderOutput) -> None:
        """See `PassTask`.

        Raises:
            UserError: the teacher's frames have another width than the codebook.
        """
        if self._writer is None:
            raise RuntimeError("ask for the loader first")
        frames = output.frames.float()
        clusters, dim = self._centroids.shape
        if frames.shape[2] != dim:
            what = f"{clusters} clusters of {dim} dimensions for frames of {frames.shape[2]}"
            raise UserError(what, where="codebook", remedy="Give the teacher and the teacher_layer it was fitted on")
        self._centroids = self._centroids.to(frames.device)
        ids = nearest_centroid(frames.flatten(0, 1), self._centroids).view(frames.shape[:2])
        for index, of_utterance in by_utterance(batch, output, ids):
            utterance_id = self.data.utterances[index].utterance_id
            if utterance_id not in self._writer:
                self._writer.write(utterance_id, of_utterance.cpu().numpy().astype(np.uint16))

    def finish(self, trainer: Trainer) -> None:
        """See `PassTask`.

        Raises:
            UserError: more audio was left out than may be.
        """
        if self._writer is not None:
            self._writer.close()
        trainer.strategy.barrier("pseudo-labels written")
        skipped = self.data.skipped_audio
        if skipped is not None and trainer.world_size > 1:
            gather_files(trainer, self.shards.folder, skipped.save, skipped.take_up)
        on_first_process(trainer, self._join)

    def _join(self) -> None:
        self.data.refuse_too_many_skipped()
        left_out = self.data.skipped_ids
        in_order = [utterance_id for batch in self.data.batches() for utterance_id in self._ids_of(batch)]
        self.shards.join(utterance_id for utterance_id in in_order if utterance_id not in left_out)
