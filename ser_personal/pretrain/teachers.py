"""Teachers, the features whose clusters become pseudo-labels, and a network's pass over the audio, by Lightning."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

from jsonargparse.typing import PositiveInt
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar
from torch import nn
from typing_extensions import override

from ser_personal.encoder.base import real_frames, weights_fingerprint
from ser_personal.encoder.front_end import MFCC_SETTINGS, MFCCFrontEnd
from ser_personal.errors import UserError
from ser_personal.training.interruption import trainer_for_tasks
from ser_personal.types import EncoderOutput

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from ser_personal.data.resumable_loader import SpeechLoader
    from ser_personal.encoder.hubert import HubertEncoder
    from ser_personal.types import SpeechBatch

HALF_PRECISIONS = ("bf16-true", "16-true")


class Teacher(nn.Module, ABC):
    """Makes from waveforms the frames that k-means clusters."""

    def build(self) -> None:
        """Load what `__init__` only names, such as weights on a hub."""

    def check_precision(self, precision: str) -> None:
        """Refuse a precision, as Lightning names it, that the teacher can't compute in."""

    @property
    @abstractmethod
    def description(self) -> dict[str, str | int]:
        """What identifies the teacher once built: its name as "teacher", and what its frames depend on."""

    @abstractmethod
    def forward(self, waveforms: Tensor, num_samples: Tensor) -> EncoderOutput:
        """Make of waveforms (batch, samples) `num_frames(num_samples)` real frames each, whatever the batch."""


class MFCCTeacher(Teacher):
    """What HuBERT's first iteration clusters: 39 dimensions of `mfcc`, not standardised."""

    def __init__(self) -> None:
        super().__init__()
        self.front_end = MFCCFrontEnd()

    @override
    def check_precision(self, precision: str) -> None:
        # half precision has no Fourier transform of 400 samples
        if precision in HALF_PRECISIONS:
            raise UserError(
                "MFCC can't be computed in half precision",
                where=f"precision {precision}",
                remedy="Leave it out; a network as teacher can be run in it",
            )

    @property
    @override
    def description(self) -> dict[str, str | int]:
        return {"teacher": "mfcc", "mfcc": MFCC_SETTINGS}

    @override
    def forward(self, waveforms: Tensor, num_samples: Tensor) -> EncoderOutput:
        frames = self.front_end.features(waveforms, num_samples)
        return EncoderOutput(frames, real_frames(num_samples, frames))


class EncoderTeacher(Teacher):
    """A layer of a speech encoder: HuBERT's later iterations (base: layer 6; large: layer 9 of base).

    Args:
        encoder: any encoder; one that has its weights already, say from a checkpoint, keeps them.
        teacher_layer: 1-based, transformers' `hidden_states[L]`.
    """

    def __init__(self, encoder: HubertEncoder, teacher_layer: PositiveInt = 9) -> None:
        super().__init__()
        self.encoder = encoder
        self.teacher_layer = teacher_layer

    @override
    def build(self) -> None:
        if next(self.encoder.parameters(), None) is None:
            self.encoder.build()

    @property
    @override
    def description(self) -> dict[str, str | int]:
        return {
            "teacher": self.encoder.pretrained,
            "teacher_layer": self.teacher_layer,
            "weights": weights_fingerprint(self.encoder.state_dict()),
        }

    @override
    def forward(self, waveforms: Tensor, num_samples: Tensor) -> EncoderOutput:
        return self.encoder.hidden_states(waveforms, num_samples, self.teacher_layer)


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
