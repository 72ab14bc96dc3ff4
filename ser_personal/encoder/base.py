"""What every encoder is: from a batch to frames, with a place for the speaker embedding to enter."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar, cast

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn

from ser_personal.audio import num_frames
from ser_personal.encoder.speaker_fusion import UNPERSONALIZED, Personalization
from ser_personal.errors import UserError
from ser_personal.files import content_hash

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from ser_personal.encoder.hugging_face import LoRA
    from ser_personal.types import EncoderOutput, SpeakerBatch, TrainingSet

# what making networks of a wrong description, or loading wrong weights into them, ends in
MISMATCHES = (ArithmeticError, AttributeError, LookupError, RuntimeError, StrictDataclassError, TypeError, ValueError)


class Encoder(nn.Module, ABC):
    """From a batch to frames; nothing is read or built before `build`."""

    # whether frames depend on their neighbours once e_s has entered, so that a prefixed e_s has an effect
    mixes_frames = True
    # what `forward` reads of a batch: values, and how many of each utterance are real
    reads: ClassVar[tuple[str, str]] = ("waveforms", "num_samples")
    # width of the frames, once it is built
    dim: int

    @property
    @abstractmethod
    def config(self) -> str:
        """The architecture as JSON, enough to `build` it again without hub or folder."""

    @abstractmethod
    def build(self, config: str | None = None, training_set: TrainingSet | None = None) -> None:
        """Make the network as a saved `config` describes it, weights to be loaded; else with its pre-trained weights.

        The training set is for what a new one's shape, or its front end's statistics, depend on.
        """

    def adapt(self, lora: LoRA | None) -> None:
        """Add what is learnt on top of weights that are there, once they are: LoRA's adapters where it is given."""
        if lora is not None:
            what, remedy = f"{type(self).__name__} has no layers to adapt", "Leave it out, or give a HubertEncoder"
            raise UserError(what, where="--model.lora", remedy=remedy)

    def merge_adapters(self) -> None:
        """Add LoRA's adapters to the weights that they stand beside, for good; nothing where there are none."""

    def weights_found_again(self) -> dict[str, Tensor]:
        """Weights that `build` reads again from their hub name or folder, so that a checkpoint leaves them out."""
        return {}

    def freeze_mask_embedding(self) -> None:
        """Freeze the embedding of masked frames, where nothing is masked: DDP stops at unused weights."""

    def encode(
        self, batch: SpeakerBatch, time_mask: Tensor | None = None, personalization: Personalization = UNPERSONALIZED
    ) -> EncoderOutput:
        """Encode a batch: `forward` on what this encoder reads of it."""
        held, (values, lengths) = cast("dict[str, Tensor]", batch), self.reads
        if values not in held:
            what, where = f"reads {values}, and the batches hold none", f"--model.encoder {type(self).__name__}"
            remedy = "Give --data EmotionDataModule, or CachedEmotionDataModule and --model.encoder CachedFeatures"
            raise UserError(what, where=where, remedy=remedy)
        return cast("EncoderOutput", self(held[values], held[lengths], time_mask, personalization))

    @abstractmethod
    def forward(
        self,
        waveforms: Tensor,
        num_samples: Tensor,
        time_mask: Tensor | None = None,
        personalization: Personalization = UNPERSONALIZED,
    ) -> EncoderOutput:
        """Encode padded waveforms (batch, samples); an utterance's frames don't depend on the rest of the batch.

        `num_samples` (batch,) are on the CPU, where reading them waits for no device; frames of `time_mask`
        (batch, frames) are replaced by the mask embedding.
        """


def weights_fingerprint(weights: Mapping[str, Tensor]) -> str:
    """Hash the names, shapes, types and values of weights, such as a `state_dict`, on any device; 32 hex digits."""

    def hash_of(weight: Tensor) -> str:
        return content_hash(weight.detach().cpu().reshape(-1).view(torch.uint8).numpy())

    return content_hash(
        *(f"{name} {weight.dtype} {tuple(weight.shape)} {hash_of(weight)}" for name, weight in weights.items())
    )


def real_frames(num_samples: Tensor, frames: Tensor) -> Tensor:
    """Mark the real ones among padded frames (batch, frames, dim) of utterances of `num_samples` (batch,)."""
    counts = num_frames(num_samples.to(frames.device, non_blocking=True))
    return torch.arange(frames.shape[1], device=frames.device) < counts[:, None]


def mean_pool(output: EncoderOutput) -> Tensor:
    """Average the personalised frames over real frames alone (the authors' code: padded ones too), -> (batch, dim)."""
    weights = output.frame_mask[..., None].to(output.frames.dtype)
    pooled: Tensor = (output.frames * weights).sum(1) / weights.sum(1).clamp(min=1)
    return pooled
