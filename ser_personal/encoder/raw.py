"""Features in place of a pre-trained network: log-mel and MFCC, as a baseline, or frames from a feature cache."""

from __future__ import annotations

import json
from abc import abstractmethod
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, cast

import torch
from typing_extensions import override

from ser_personal.encoder.base import Encoder, real_frames
from ser_personal.encoder.front_end import LogMelFrontEnd, MFCCFrontEnd, StandardizedFrontEnd
from ser_personal.encoder.speaker_fusion import fuse
from ser_personal.errors import UserError
from ser_personal.types import EncoderOutput, FeatureSource

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from ser_personal.encoder.speaker_fusion import Personalization
    from ser_personal.types import CachedBatch, SpeechBatch, TrainingSet


class RawEncoder(Encoder):
    """Acoustic features, standardised over at most 500 training utterances."""

    model_type: ClassVar[str]
    # what its features depend on
    settings: ClassVar[dict[str, Any]]
    mixes_frames = False

    @abstractmethod
    def __init__(self, front_end: StandardizedFrontEnd) -> None:
        super().__init__()
        self.front_end = front_end

    @property
    @override
    def dim(self) -> int:
        return self.front_end.dim

    @property
    @override
    def config(self) -> str:
        return json.dumps({"model_type": self.model_type, **self.settings})

    @override
    def build(self, config: str | None = None) -> None:
        if config is not None and json.loads(config) != json.loads(self.config):
            raise UserError(
                "was trained on features of other settings, by an earlier version",
                where="the checkpoint",
                remedy="Train it again with this version, or use it with the one that wrote it",
            )

    @override
    def fit_front_end(self, training_audio: Callable[[int], Iterator[NDArray[np.float32]]]) -> None:
        self.front_end.fit(training_audio)

    @override
    def forward(
        self,
        waveforms: Tensor,
        num_samples: Tensor,
        time_mask: Tensor | None = None,
        personalization: Personalization | None = None,
    ) -> EncoderOutput:
        frames = self.front_end(waveforms, num_samples)
        return EncoderOutput(fuse(frames, personalization), real_frames(num_samples, frames))


class LogMelEncoder(RawEncoder):
    """80 log-mel bins, 50 frames a second."""

    model_type = "log_mel"
    settings: ClassVar = {"num_mels": 80}

    def __init__(self) -> None:
        super().__init__(LogMelFrontEnd(self.settings["num_mels"]))


class MFCCEncoder(RawEncoder):
    """13 MFCC with deltas and delta-deltas, 39 dimensions, 50 frames a second."""

    model_type = "mfcc"
    settings: ClassVar = {"mfcc": "Kaldi's"}

    def __init__(self) -> None:
        super().__init__(MFCCFrontEnd())


class CachedFeatures(Encoder):
    """Frames as batches of `CachedEmotionDataModule` bring them.

    e_s enters after them: `last` (and `first`, for no Transformer follows) adds it, `concat` projects both; `prefix`
    is for interpreters that read e_s as a token, and refused with others.
    """

    model_type = "cached_features"
    mixes_frames = False

    def __init__(self) -> None:
        super().__init__()
        self.source: FeatureSource | None = None

    @property
    def _known_source(self) -> FeatureSource:
        if self.source is None:
            raise UserError(
                "there is no feature cache to read",
                where="--model.encoder CachedFeatures",
                remedy="Give --data CachedEmotionDataModule with --data.cache, the folder that `ser cache` wrote",
            )
        return self.source

    @property
    @override
    def dim(self) -> int:
        return self._known_source.dim

    @property
    @override
    def config(self) -> str:
        return json.dumps({"model_type": self.model_type, "source": asdict(self._known_source)})

    @override
    def prepare(self, training_set: TrainingSet) -> None:
        self.source = training_set.frame_source

    @override
    def build(self, config: str | None = None) -> None:
        if config is not None:
            self.source = FeatureSource(**json.loads(config)["source"])
        _ = self._known_source

    @override
    def encode(
        self,
        batch: SpeechBatch | CachedBatch,
        time_mask: Tensor | None = None,
        personalization: Personalization | None = None,
    ) -> EncoderOutput:
        if "features" not in batch:
            self._refuse_audio()
        cached = cast("CachedBatch", batch)
        features = cached["features"]
        # half precision is how they are stored; the trainer's precision is how they are computed with
        frames = features.float() if features.dtype == torch.float16 else features
        frame_mask = torch.arange(frames.shape[1], device=frames.device) < cached["num_frames"][:, None]
        return EncoderOutput(fuse(frames, personalization), frame_mask)

    @override
    def forward(self, *_: object, **__: object) -> EncoderOutput:
        self._refuse_audio()

    def _refuse_audio(self) -> NoReturn:
        raise UserError(
            f"reads cached features of {self._known_source.encoder}, not audio",
            where="--model.encoder CachedFeatures",
            remedy="Give --data CachedEmotionDataModule, or train with the encoder itself",
        )
