"""Teachers: the features whose clusters become pseudo-labels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from jsonargparse.typing import PositiveInt
from torch import nn
from typing_extensions import override

from ser_personal.encoder.base import real_frames, weights_fingerprint
from ser_personal.encoder.front_end import MFCC_SETTINGS, MFCCFrontEnd
from ser_personal.errors import UserError
from ser_personal.types import EncoderOutput

if TYPE_CHECKING:
    from torch import Tensor

    from ser_personal.encoder.hubert import HubertEncoder

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
