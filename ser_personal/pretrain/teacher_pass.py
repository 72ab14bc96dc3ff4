"""One pass of a teacher over the audio, by Lightning, each process its share of the batches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar
from typing_extensions import override

from ser_personal.errors import UserError
from ser_personal.training.interruption import trainer_for_tasks

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn

    from ser_personal.data.loader import SpeechLoader
    from ser_personal.types import EncoderOutput, SpeechBatch


class TeacherPass(LightningModule, ABC):
    """A teacher as Lightning runs it over batches of audio; what is done with its frames is the subclass's."""

    # of the progress bar
    title: ClassVar[str]
    # a process may find nothing left to do
    allow_zero_length_dataloader_with_multiple_devices = True

    def __init__(self, teacher: nn.Module) -> None:
        super().__init__()
        self.teacher = teacher

    @abstractmethod
    def predict_dataloader(self) -> SpeechLoader[SpeechBatch]:
        """Load this process's share of the batches; it may be empty."""

    @abstractmethod
    def take(self, batch: SpeechBatch, output: EncoderOutput) -> None:
        """Use the frames of a batch."""

    @override
    def predict_step(self, batch: SpeechBatch) -> Tensor:
        self.take(batch, self.teacher(batch["waveforms"], batch["num_samples"]))
        return batch["indices"]

    def run(self, **devices: Any) -> None:
        """Run over the audio, on the devices of Lightning's arguments `accelerator`, `devices` and so on."""
        try:
            trainer = trainer_for_tasks(
                lambda: Trainer(
                    callbacks=[_Progress(self.title)],
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
        trainer.predict(self, return_predictions=False)


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
