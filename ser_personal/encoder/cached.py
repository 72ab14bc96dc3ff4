"""Cached features in place of an encoder."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, NoReturn, cast

import torch
from typing_extensions import override

from ser_personal.encoder.base import Encoder
from ser_personal.encoder.fusion import fuse
from ser_personal.encoder.raw import refuse_masks
from ser_personal.errors import UserError
from ser_personal.types import EncoderOutput, FeatureSource

if TYPE_CHECKING:
    from torch import Tensor

    from ser_personal.encoder.fusion import Personalization
    from ser_personal.types import CachedBatch, SpeechBatch, TrainingSet


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
        refuse_masks(self, time_mask)
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
