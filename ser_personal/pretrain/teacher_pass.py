"""One pass of a teacher over the audio, by Lightning: frames are sampled, or become ids, while they stream past."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar

from ser_personal.errors import UserError
from ser_personal.pretrain.codebook import nearest_centroid

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor, nn

    from ser_personal.data.loader import SpeechLoader
    from ser_personal.data.pseudo_labels import PseudoLabelWriter
    from ser_personal.pretrain.codebook import Codebook
    from ser_personal.pretrain.reservoir import FrameReservoir
    from ser_personal.types import EncoderOutput, SpeechBatch, Utterance


class FrameConsumer(Protocol):
    """Takes what a teacher makes of a batch."""

    def __call__(self, batch: SpeechBatch, output: EncoderOutput) -> None:
        """Take a batch and its frames."""


class FrameSampler:
    """Shows every frame to a reservoir."""

    def __init__(self, reservoir: FrameReservoir) -> None:
        self.reservoir = reservoir

    def __call__(self, batch: SpeechBatch, output: EncoderOutput) -> None:
        """Sample from a batch."""
        for index, frames in _by_utterance(batch, output, output.frames):
            self.reservoir.add(index, frames.float().cpu().numpy())


class IdWriter:
    """Writes the nearest centroid of every frame, for utterances that have no ids yet."""

    def __init__(self, utterances: Sequence[Utterance], codebook: Codebook, writer: PseudoLabelWriter) -> None:
        self.utterances, self.writer = utterances, writer
        self._centroids = torch.from_numpy(codebook.centroids)

    def __call__(self, batch: SpeechBatch, output: EncoderOutput) -> None:
        """Write a batch.

        Raises:
            UserError: the teacher's frames have another width than the codebook.
        """
        frames = output.frames.float()
        clusters, dim = self._centroids.shape
        if frames.shape[2] != dim:
            what = f"{clusters} clusters of {dim} dimensions for frames of {frames.shape[2]}"
            raise UserError(what, where="codebook", remedy="Give the teacher and the teacher_layer it was fitted on")
        self._centroids = self._centroids.to(frames.device)
        ids = nearest_centroid(frames.flatten(0, 1), self._centroids).view(frames.shape[:2])
        for index, of_utterance in _by_utterance(batch, output, ids):
            utterance_id = self.utterances[index].utterance_id
            if utterance_id not in self.writer:
                self.writer.write(utterance_id, of_utterance.cpu().numpy().astype(np.uint16))


class TeacherPass(LightningModule):
    """A teacher as Lightning runs it; its frames go to the consumer and are then forgotten."""

    def __init__(self, teacher: nn.Module, consumer: FrameConsumer) -> None:
        super().__init__()
        self.teacher, self.consumer = teacher, consumer

    def predict_step(self, batch: SpeechBatch) -> Tensor:
        """Make and pass on the frames of a batch; return which utterances those were."""
        self.consumer(batch, self.teacher(batch["waveforms"], batch["num_samples"]))
        return batch["indices"]


def run_teacher(
    teacher: nn.Module,
    loader: SpeechLoader[SpeechBatch],
    consumer: FrameConsumer,
    title: str,
    *,
    accelerator: str,
    precision: Any,
) -> None:
    """Run the teacher over every batch of the loader on one device, under a progress bar of that title.

    Raises:
        UserError: Lightning refuses the accelerator or the precision, or lacks a package for it.
    """
    try:
        trainer = Trainer(
            accelerator=accelerator,
            devices=1,
            precision=precision,
            callbacks=[_Progress(title)],
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
        )
    except (MisconfigurationException, ValueError, ModuleNotFoundError) as error:
        raise UserError(
            str(error).rstrip(".!"),
            where=f"accelerator {accelerator}, precision {precision}",
            remedy="Leave both out for what this machine has, at full precision",
        ) from error
    trainer.predict(TeacherPass(teacher, consumer), loader, return_predictions=False)


class _Progress(RichProgressBar):
    def __init__(self, title: str) -> None:
        super().__init__()
        self._title = title

    @property
    def predict_description(self) -> str:
        return self._title


def _by_utterance(batch: SpeechBatch, output: EncoderOutput, values: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Split values (batch, frames, ...) into those of each utterance's real frames, with the utterance's index."""
    for index, value, real in zip(batch["indices"].tolist(), values, output.frame_mask, strict=True):
        yield index, value[real]
