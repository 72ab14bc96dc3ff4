"""One pass of a teacher over the audio, by Lightning, each process its share of the batches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar
from typing_extensions import override

from ser_personal.data.frame_store import PseudoLabels
from ser_personal.errors import UserError
from ser_personal.files import gather_files, on_first_process
from ser_personal.pretrain.codebook import nearest_centroid
from ser_personal.training.interruption import trainer_for_tasks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from ser_personal.data.frame_store import PseudoLabelSource
    from ser_personal.data.loader import SpeechLoader
    from ser_personal.pretrain.codebook import Codebook, FrameSample
    from ser_personal.pretrain.kmeans import PseudoLabelData
    from ser_personal.types import EncoderOutput, SpeechBatch

Result = TypeVar("Result")


class PassTask(ABC, Generic[Result]):
    """What one process does with a teacher's frames; `title` is that of the progress bar."""

    title: str

    @abstractmethod
    def loader(self, trainer: Trainer) -> SpeechLoader[SpeechBatch]:
        """Load this process's share of the batches; it may be empty."""

    @abstractmethod
    def take(self, batch: SpeechBatch, output: EncoderOutput) -> None:
        """Use the frames of a batch."""

    @abstractmethod
    def finish(self, trainer: Trainer) -> Result:
        """Merge the results of all processes, after their last batches; each returns the same."""


class TeacherPass(LightningModule):
    """A teacher as Lightning runs it; its frames go to the task and aren't kept."""

    def __init__(self, teacher: nn.Module, task: PassTask[Any]) -> None:
        super().__init__()
        self.teacher, self.task = teacher, task
        # a process may find nothing left to do
        self.allow_zero_length_dataloader_with_multiple_devices = True

    @override
    def predict_dataloader(self) -> SpeechLoader[SpeechBatch]:
        return self.task.loader(self.trainer)

    @override
    def predict_step(self, batch: SpeechBatch) -> Tensor:
        self.task.take(batch, self.teacher(batch["waveforms"], batch["num_samples"]))
        return batch["indices"]


def run_pass(teacher: nn.Module, task: PassTask[Result], **devices: Any) -> Result:
    """Run the teacher over the audio, on the devices of Lightning's arguments `accelerator`, `devices` and so on."""
    try:
        trainer = trainer_for_tasks(
            lambda: Trainer(
                callbacks=[_Progress(task.title)],
                logger=False,
                enable_checkpointing=False,
                enable_model_summary=False,
                use_distributed_sampler=False,
                **devices,
            )
        )
    except (MisconfigurationException, ValueError, ModuleNotFoundError) as error:
        raise UserError(
            str(error).rstrip(".!"),
            where=", ".join(f"{name} {value}" for name, value in devices.items()),
            remedy="Leave them out for one device of this machine, at full precision",
        ) from error
    trainer.predict(TeacherPass(teacher, task), return_predictions=False)
    return task.finish(trainer)


class _Progress(RichProgressBar):
    def __init__(self, title: str) -> None:
        super().__init__()
        self._title = title

    @property
    @override
    def predict_description(self) -> str:
        return self._title


def by_utterance(batch: SpeechBatch, output: EncoderOutput, values: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Split values (batch, frames, ...) into those of each utterance's real frames, with the utterance's index."""
    for index, value, real in zip(batch["indices"].tolist(), values, output.frame_mask, strict=True):
        yield index, value[real]


class CodebookTask(PassTask["Codebook"]):
    """Samples frames on every process, and fits the codebook on the first.

    `folder`, which every process sees, is for the samples on their way to the first one.
    """

    title = "Sampling frames"

    def __init__(
        self,
        data: PseudoLabelData,
        sample: FrameSample,
        fit: Callable[[NDArray[np.float32]], Codebook],
        folder: Path,
    ) -> None:
        self.data, self.sample, self.fit, self.folder = data, sample, fit, folder

    @override
    def loader(self, trainer: Trainer) -> SpeechLoader[SpeechBatch]:
        return self.data.predict_loader(self.data.fit_batches()[trainer.global_rank :: trainer.world_size])

    @override
    def take(self, batch: SpeechBatch, output: EncoderOutput) -> None:
        for index, frames in by_utterance(batch, output, output.frames):
            rows = self.sample.rows_of(index)
            if len(rows):
                self.sample.add(rows, frames[self.sample.positions[rows]].float().cpu().numpy())

    @override
    def finish(self, trainer: Trainer) -> Codebook:
        if trainer.world_size > 1:
            gather_files(trainer, self.folder, self.sample.save, lambda paths: self.sample.merge(paths[1:]))
        return on_first_process(trainer, lambda: self.fit(self.sample.frames))


class PseudoLabelTask(PassTask[None]):
    """Writes the ids of utterances that have none yet, each process those of its share of the batches."""

    title = "Writing pseudo-labels"

    def __init__(self, data: PseudoLabelData, codebook: Codebook, folder: Path, source: PseudoLabelSource) -> None:
        self.data, self.folder, self.source = data, folder, source
        self._centroids = torch.from_numpy(codebook.centroids)
        self._pseudo_labels: PseudoLabels | None = None

    @override
    def loader(self, trainer: Trainer) -> SpeechLoader[SpeechBatch]:
        # Batches stay as they are, since a network's rounding depends on them: an unfinished one is run again.
        batches = self.data.batches()
        left = on_first_process(trainer, lambda: self._missing(batches))
        self._pseudo_labels = PseudoLabels.create(self.folder, self.source)
        return self.data.predict_loader([batches[number] for number in left[trainer.global_rank :: trainer.world_size]])

    def _missing(self, batches: list[list[int]]) -> list[int]:
        stored = PseudoLabels.create(self.folder, self.source)
        utterances = self.data.utterances
        return [n for n, batch in enumerate(batches) if not all(utterances[i].utterance_id in stored for i in batch)]

    @override
    def take(self, batch: SpeechBatch, output: EncoderOutput) -> None:
        if self._pseudo_labels is None:
            raise RuntimeError("call loader() first")
        frames = output.frames
        clusters, dim = self._centroids.shape
        if frames.shape[2] != dim:
            what = f"{clusters} clusters of {dim} dimensions for frames of {frames.shape[2]}"
            raise UserError(what, where="codebook", remedy="Give the teacher and the teacher_layer it was fitted on")
        self._centroids = self._centroids.to(frames.device)
        ids = nearest_centroid(frames.flatten(0, 1), self._centroids).view(frames.shape[:2])
        self._pseudo_labels.write(
            {
                self.data.utterances[index].utterance_id: of_utterance.cpu().numpy()
                for index, of_utterance in by_utterance(batch, output, ids)
            }
        )

    @override
    def finish(self, trainer: Trainer) -> None:
        trainer.strategy.barrier("pseudo-labels written")
        on_first_process(trainer, self._finish)

    def _finish(self) -> None:
        wanted = [self.data.utterances[index].utterance_id for index in self.data.pseudo_label_indices]
        PseudoLabels.create(self.folder, self.source).finish(wanted)
