"""Teachers, the features whose clusters become pseudo-labels, and a network's pass over the audio, by Lightning."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from itertools import chain
from typing import Any, Literal

from jsonargparse.typing import PositiveInt
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.utilities import rank_zero_only
from numpy.typing import NDArray
from torch import Tensor, nn
from typing_extensions import override

from ser_personal.data.datamodule import AllUtterancesDataModule
from ser_personal.data.frame_store import FrameStore
from ser_personal.data.resumable_loader import SpeechLoader
from ser_personal.encoder.base import real_frames, weights_fingerprint
from ser_personal.encoder.hubert import HubertEncoder
from ser_personal.encoder.raw import MFCCFrontEnd
from ser_personal.errors import UserError
from ser_personal.files import on_first_process
from ser_personal.training.interruption import refuse_other_tasks
from ser_personal.types import EncoderOutput, SpeechBatch

# as Lightning names it: weights stay in float32, which the Fourier transform of MFCC needs
Precision = Literal["32-true", "bf16-mixed", "16-mixed"]


class Teacher(nn.Module, ABC):
    """Makes from waveforms the frames that k-means clusters."""

    def build(self) -> None:
        """Load what `__init__` only names, such as weights on a hub."""

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

    @property
    @override
    def description(self) -> dict[str, str | int]:
        return {"teacher": "mfcc", "mfcc": "Kaldi's"}

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
        if self.encoder.max_samples is not None:
            what = f"encodes only the first {self.encoder.max_samples:,} samples, so longer audio lacks pseudo-labels"
            raise UserError(what, where="the teacher's encoder", remedy="Leave max_samples out")

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


class TeacherPass(LightningModule):
    """A teacher's pass over audio, by Lightning.

    `batches` gives all batches, the same on every process, which takes its share of them; `take` uses the real frames
    (frames, dim) of a batch's utterances, by their positions in `data.utterances`.
    """

    # a process may find nothing left to do
    allow_zero_length_dataloader_with_multiple_devices = True

    def __init__(
        self,
        data: AllUtterancesDataModule,
        batches: Callable[[Trainer], list[list[int]]],
        teacher: nn.Module,
        take: Callable[[dict[int, Tensor]], None],
    ) -> None:
        super().__init__()
        self.data, self.batches, self.teacher, self.take = data, batches, teacher, take

    def run(self, **devices: Any) -> Trainer:
        """Run it on Lightning's `accelerator`, `devices` and so on."""
        names = ("logger", "enable_checkpointing", "enable_model_summary", "use_distributed_sampler")
        off: dict[str, Any] = dict.fromkeys(names, False)
        try:
            trainer = Trainer(callbacks=[RichProgressBar()], **off, **devices)
        except (MisconfigurationException, ValueError, RuntimeError, ModuleNotFoundError) as error:
            where = ", ".join(f"{name} {value}" for name, value in devices.items())
            remedy = "Leave them out for one device of this machine, at full precision"
            raise UserError(str(error).rstrip(".!"), where=where, remedy=remedy) from error
        refuse_other_tasks(trainer)
        trainer.predict(self, return_predictions=False)
        return trainer

    @override
    def predict_dataloader(self) -> SpeechLoader[SpeechBatch]:
        return self.data.predict_loader(self.batches(self.trainer)[self.global_rank :: self.trainer.world_size])

    @override
    def predict_step(self, batch: SpeechBatch) -> Tensor:
        output = self.teacher(batch["waveforms"], batch["num_samples"])
        of_utterances = zip(batch["indices"].tolist(), output.frames, output.frame_mask, strict=True)
        frames_of = {index: frames[real] for index, frames, real in of_utterances}
        for index, frames in frames_of.items():
            if not frames.isfinite().all():
                what = "the network's frames of this audio hold NaN or infinity"
                remedy = "Check the network's weights, or give --precision 32-true"
                raise UserError(what, where=self.data.utterances[index].path, remedy=remedy)
        self.take(frames_of)
        return batch["indices"]


def fill(
    store: FrameStore[Any],
    data: AllUtterancesDataModule,
    network: nn.Module,
    to_array: Callable[[Tensor], NDArray[Any]],
    **devices: Any,
) -> None:
    """Store what `to_array` makes of a network's frames (frames, dim) of every utterance, and finish the store.

    Batches with an utterance that isn't stored stay whole, since a network's rounding depends on the batch.
    """
    batches = data.batches()
    audio = {data.utterances[index].utterance_id: data.utterances[index] for index in chain(*batches)}

    def left() -> list[list[int]]:
        store.refuse_changed(audio.values())
        return [batch for batch in batches if any(data.utterances[index].utterance_id not in store for index in batch)]

    def take(frames: dict[int, Tensor]) -> None:
        store.write({data.utterances[i].utterance_id: to_array(of_one) for i, of_one in frames.items()}, audio)

    if all(utterance_id in store for utterance_id in audio):
        store.refuse_changed(audio.values())
        rank_zero_only(store.finish)()
        return
    trainer = TeacherPass(data, lambda trainer: on_first_process(trainer, left), network, take).run(**devices)
    trainer.strategy.barrier("arrays written")
    # opened again, for what other processes wrote
    written = partial(type(store).create, store.folder, store.source, store.trained_on)
    on_first_process(trainer, lambda: written().finish(audio))
