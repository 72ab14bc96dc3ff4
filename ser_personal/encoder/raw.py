"""Raw features as encoders: log-mel, MFCC and eGeMAPS in the place of a pre-trained network. Nothing in them is learnt.

For the question whether embeddings do any better than these.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from typing import TYPE_CHECKING, Any

from ser_personal.encoder.base import Encoder
from ser_personal.encoder.front_end import EGeMAPSFrontEnd, LogMelFrontEnd, MFCCFrontEnd, StandardizedFrontEnd
from ser_personal.encoder.fusion import NoFusion, fuse
from ser_personal.encoder.hubert import STATISTICS_UTTERANCES
from ser_personal.errors import UserError, require_range
from ser_personal.types import EncoderOutput

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import ClassVar

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor


class RawEncoder(Encoder):
    """Acoustic features, standardised over at most 500 training utterances."""

    model_type: ClassVar[str]
    mixes_frames = False

    def __init__(self) -> None:
        super().__init__()
        self.front_end: StandardizedFrontEnd | None = None

    @abstractmethod
    def make_front_end(self) -> StandardizedFrontEnd:
        """Make what computes the features."""

    @property
    def sizes(self) -> dict[str, int]:
        """Arguments that the shape of the frames depends on."""
        return {}

    @property
    def dim(self) -> int:
        """Width of the frames."""
        return self._built.dim

    @property
    def config(self) -> str:
        """What it is, as JSON."""
        return json.dumps({"model_type": self.model_type, **self.sizes})

    @property
    def _built(self) -> StandardizedFrontEnd:
        if self.front_end is None:
            raise RuntimeError("build() the encoder before using it")
        return self.front_end

    def build(self, config: str | None = None) -> None:
        """Make the front end, of the sizes that a saved `config` tells."""
        saved: dict[str, Any] = {} if config is None else json.loads(config)
        for name in self.sizes.keys() & saved.keys():
            setattr(self, name, saved[name])
        self.front_end = self.make_front_end()

    def fit_front_end(self, training_audio: Callable[[int], Iterator[NDArray[np.float32]]]) -> None:
        """Standardise features over at most 500 evenly spread training waveforms (samples,)."""
        self._built.fit(training_audio(STATISTICS_UTTERANCES))

    def forward(
        self,
        waveforms: Tensor,
        num_samples: Tensor,
        *,
        time_mask: Tensor | None = None,
        fusion: NoFusion | None = None,
        speaker_embedding: Tensor | None = None,
    ) -> EncoderOutput:
        """See `Encoder`.

        Raises:
            UserError: frames are to be masked.
        """
        refuse_masks(self, time_mask)
        frames = self._built(waveforms, num_samples)
        return EncoderOutput(
            fuse(frames, fusion, speaker_embedding), self._built.frame_mask(num_samples, frames.shape[1])
        )


class LogMelEncoder(RawEncoder):
    """Log-mel frames, 50 a second.

    Args:
        num_mels: mel bins.

    Raises:
        UserError: a number is out of its range.
    """

    model_type = "log_mel"

    def __init__(self, num_mels: int = 80) -> None:
        require_range("num_mels", num_mels, 1)
        super().__init__()
        self.num_mels = num_mels

    @property
    def sizes(self) -> dict[str, int]:
        """Arguments that the shape of the frames depends on."""
        return {"num_mels": self.num_mels}

    def make_front_end(self) -> LogMelFrontEnd:
        """Make what computes the features."""
        return LogMelFrontEnd(self.num_mels)


class MFCCEncoder(RawEncoder):
    """13 MFCC with deltas and delta-deltas, 39 dimensions, 50 frames a second."""

    model_type = "mfcc"

    def make_front_end(self) -> MFCCFrontEnd:
        """Make what computes the features."""
        return MFCCFrontEnd()


class EGeMAPSEncoder(RawEncoder):
    """The 88 functionals of eGeMAPS, one frame an utterance; needs the extra `egemaps`.

    Functionals rather than their 25 low-level descriptors every 20 ms: percentiles, slopes and rates are what the set
    was drawn up for, and a mean over descriptors would leave the means alone.
    """

    model_type = "egemaps"

    def make_front_end(self) -> EGeMAPSFrontEnd:
        """Make what computes the features."""
        return EGeMAPSFrontEnd()


def refuse_masks(encoder: Encoder, time_mask: Tensor | None) -> None:
    """Refuse pre-training of what has nothing to learn.

    Raises:
        UserError: frames are to be masked.
    """
    if time_mask is not None:
        raise UserError(
            "has nothing that pre-training could learn",
            where=f"--model.encoder {type(encoder).__name__}",
            remedy="Pre-train a HubertEncoder or a TinyEncoder",
        )
