"""One pass of a teacher over the audio, by Lightning, each process its share of the batches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar

from ser_personal.errors import UserError
from ser_personal.training.slurm import trainer_for_tasks

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn

    from ser_personal.data.loader import SpeechLoader
    from ser_personal.types import EncoderOutput, SpeechBatch


Result_co = TypeVar("Result_co", covariant=True)
Result = TypeVar("Result")


class PassTask(Protocol[Result_co]):
    """What a pass is made for, as one process sees it.

    Attributes:
        title: of the progress bar.
    """

    title: str

    def loader(self, trainer: Trainer) -> SpeechLoader[SpeechBatch]:
        """Load this process's share of the batches; it may be empty."""

    def take(self, batch: SpeechBatch, output: EncoderOutput) -> None:
        """Take a batch and its frames."""

    def finish(self, trainer: Trainer) -> Result_co:
        """Join what all processes took, after their last batches; the same comes back on each."""


class TeacherPass(LightningModule):
    """A teacher as Lightning runs it; its frames go to the task and are then forgotten."""

    def __init__(self, teacher: nn.Module, task: PassTask[object]) -> None:
        super().__init__()
        self.teacher, self.task = teacher, task
        # a process may find nothing left to do
        self.allow_zero_length_dataloader_with_multiple_devices = True

    def predict_dataloader(self) -> SpeechLoader[SpeechBatch]:
        """Load this process's share."""
        return self.task.loader(self.trainer)

    def predict_step(self, batch: SpeechBatch) -> Tensor:
        """Make and pass on the frames of a batch; return which utterances those were."""
        self.task.take(batch, self.teacher(batch["waveforms"], batch["num_samples"]))
        return batch["indices"]


def run_pass(teacher: nn.Module, task: PassTask[Result], **devices: Any) -> Result:
    """Run the teacher over the audio, on the devices that Lightning's `accelerator`, `devices` and so on name.

    Raises:
        UserError: Lightning refuses one of them, or lacks a package for it, or SLURM has other tasks.
    """
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
            remedy="Leave them out for one device of what this machine has, at full precision",
        ) from error
    trainer.predict(TeacherPass(teacher, task), return_predictions=False)
    return task.finish(trainer)


class _Progress(RichProgressBar):
    def __init__(self, title: str) -> None:
        super().__init__()
        self._title = title

    @property
    def predict_description(self) -> str:
        return self._title


def by_utterance(batch: SpeechBatch, output: EncoderOutput, values: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Split values (batch, frames, ...) into those of each utterance's real frames, with the utterance's index."""
    for index, value, real in zip(batch["indices"].tolist(), values, output.frame_mask, strict=True):
        yield index, value[real]
