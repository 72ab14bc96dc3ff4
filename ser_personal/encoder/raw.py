"""Raw features in place of a pre-trained network, as a baseline: log-mel, MFCC and eGeMAPS, nothing learnt."""

from __future__ import annotations

import json
from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

from jsonargparse.typing import PositiveInt
from typing_extensions import override

from ser_personal.encoder.base import Encoder
from ser_personal.encoder.front_end import (
    MFCC_SETTINGS,
    STATISTICS_UTTERANCES,
    EGeMAPSFrontEnd,
    LogMelFrontEnd,
    MFCCFrontEnd,
    StandardizedFrontEnd,
)
from ser_personal.encoder.fusion import fuse
from ser_personal.errors import UserError
from ser_personal.types import EncoderOutput

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from ser_personal.encoder.fusion import Personalization


class RawEncoder(Encoder):
    """Acoustic features, standardised over at most 500 training utterances."""

    model_type: ClassVar[str]
    mixes_frames = False

    def __init__(self) -> None:
        super().__init__()
        self.front_end: StandardizedFrontEnd | None = None

    @abstractmethod
    def _make_front_end(self) -> StandardizedFrontEnd: ...

    @property
    @override
    def dim(self) -> int:
        return self._built.dim

    @property
    @override
    def config(self) -> str:
        return json.dumps({"model_type": self.model_type})

    @property
    def _built(self) -> StandardizedFrontEnd:
        if self.front_end is None:
            raise RuntimeError("build() the encoder before using it")
        return self.front_end

    @override
    def build(self, config: str | None = None) -> None:
        self.front_end = self._make_front_end()

    @override
    def fit_front_end(self, training_audio: Callable[[int], Iterator[NDArray[np.float32]]]) -> None:
        self._built.fit(training_audio(STATISTICS_UTTERANCES))

    @override
    def forward(
        self,
        waveforms: Tensor,
        num_samples: Tensor,
        time_mask: Tensor | None = None,
        personalization: Personalization | None = None,
    ) -> EncoderOutput:
        refuse_masks(self, time_mask)
        frames = self._built(waveforms, num_samples)
        frame_mask = self._built.frame_mask(num_samples, frames)
        return EncoderOutput(fuse(frames, personalization), frame_mask)


class LogMelEncoder(RawEncoder):
    """Log-mel frames, 50 a second.

    Args:
        num_mels: mel bins.
    """

    model_type = "log_mel"

    def __init__(self, num_mels: PositiveInt = 80) -> None:
        super().__init__()
        self.num_mels = num_mels

    @property
    @override
    def config(self) -> str:
        return json.dumps({"model_type": self.model_type, "num_mels": self.num_mels})

    @override
    def build(self, config: str | None = None) -> None:
        if config is not None:
            self.num_mels = json.loads(config)["num_mels"]
        super().build()

    @override
    def _make_front_end(self) -> LogMelFrontEnd:
        return LogMelFrontEnd(self.num_mels)


class MFCCEncoder(RawEncoder):
    """13 MFCC with deltas and delta-deltas, 39 dimensions, 50 frames a second."""

    model_type = "mfcc"

    @property
    @override
    def config(self) -> str:
        return json.dumps({"model_type": self.model_type, "mfcc": MFCC_SETTINGS})

    @override
    def build(self, config: str | None = None) -> None:
        if config is not None and json.loads(config).get("mfcc") != MFCC_SETTINGS:
            raise UserError(
                "was trained on MFCC of other settings, by an earlier version",
                where="the checkpoint",
                remedy="Train it again with this version, or use it with the one that wrote it",
            )
        super().build()

    @override
    def _make_front_end(self) -> MFCCFrontEnd:
        return MFCCFrontEnd()


class EGeMAPSEncoder(RawEncoder):
    """The 88 functionals of eGeMAPS, one frame an utterance; needs the extra `egemaps`.

    Functionals rather than their 25 low-level descriptors every 20 ms: percentiles, slopes and rates are what the set
    was drawn up for, and a mean over descriptors would leave the means alone.
    """

    model_type = "egemaps"

    @override
    def _make_front_end(self) -> EGeMAPSFrontEnd:
        return EGeMAPSFrontEnd()


def refuse_masks(encoder: Encoder, time_mask: Tensor | None) -> None:
    """Refuse to pre-train an encoder without weights."""
    if time_mask is not None:
        raise UserError(
            "can't be pre-trained by masked prediction here",
            where=f"--model.encoder {type(encoder).__name__}",
            remedy="Pre-train a HubertEncoder or a TinyEncoder",
        )
