"""Encoder, speaker embedding and their fusion as one network: a batch -> personalised frames f^p."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

from torch import nn

from ser_personal.encoder.fusion import NoFusion, make_fusion

if TYPE_CHECKING:
    from torch import Tensor

    from ser_personal.encoder.hubert import HubertEncoder
    from ser_personal.speakers.embedding import SpeakerEmbedding
    from ser_personal.types import EncoderOutput, FusionName, SpeechBatch


class EncoderDescription(TypedDict):
    """What a checkpoint says of its personalised encoder, enough to build it before its weights are loaded."""

    encoder: str
    encoder_config: str
    fusion: FusionName
    embedding_dim: int
    speaker_ids: list[str]
    pretraining_splits: list[str]


class PersonalizedEncoder(nn.Module):
    """f^p: an encoder's frames with the speaker's embedding fused in (paper, section 2.1).

    Args:
        encoder: frames of a batch.
        speakers: e_s of its speakers.
        fusion: where the two meet.

    Attributes:
        pretraining_splits: sets whose audio PAPT or TAPT heard, whatever their labels were used for.
    """

    def __init__(self, encoder: HubertEncoder, speakers: SpeakerEmbedding, fusion: FusionName) -> None:
        super().__init__()
        self.encoder = encoder
        self.speakers = speakers
        self.fusion_name: FusionName = fusion
        self.fusion: NoFusion | None = None
        self.pretraining_splits: list[str] = []

    @property
    def is_built(self) -> bool:
        """Whether the networks exist."""
        return self.fusion is not None

    @property
    def dim(self) -> int:
        """Width of the frames."""
        return self.encoder.dim

    def build(self, speaker_ids: list[str]) -> None:
        """Make the networks afresh, the encoder with its pre-trained weights, the table for these speakers."""
        self.encoder.build()
        self._build_rest(speaker_ids)

    def rebuild(self, description: EncoderDescription) -> None:
        """Make the networks that a checkpoint describes, their weights to be loaded."""
        self.fusion_name = description["fusion"]
        self.speakers.embedding_dim = description["embedding_dim"]
        self.pretraining_splits = description["pretraining_splits"]
        self.encoder.build(description["encoder_config"])
        self._build_rest(description["speaker_ids"])

    def _build_rest(self, speaker_ids: list[str]) -> None:
        self.fusion = make_fusion(self.fusion_name, self.encoder.dim)
        if self.fusion.uses_speakers:
            self.speakers.build(speaker_ids, self.encoder.dim)
        else:
            self.speakers.clear()

    @property
    def settings(self) -> tuple[object, ...]:
        """What frames depend on beside the weights."""
        return (*self.describe().items(), self.speakers.unseen, self.speakers.permute)

    def describe(self) -> EncoderDescription:
        """Describe the networks for a checkpoint."""
        return EncoderDescription(
            encoder=type(self.encoder).__name__,
            encoder_config=self.encoder.config,
            fusion=self.fusion_name,
            embedding_dim=self.speakers.embedding_dim,
            speaker_ids=self.speakers.ids,
            pretraining_splits=self.pretraining_splits,
        )

    def forward(self, batch: SpeechBatch, time_mask: Tensor | None = None) -> EncoderOutput:
        """Encode a batch.

        Args:
            batch: waveforms and their speakers.
            time_mask: (batch, frames), frames to mask.
        """
        if self.fusion is None:
            raise RuntimeError("build() the encoder before using it")
        embedding = self.speakers(batch["speaker_ids"]) if self.fusion.uses_speakers else None
        output: EncoderOutput = self.encoder(
            batch["waveforms"],
            batch["num_samples"],
            time_mask=time_mask,
            fusion=self.fusion,
            speaker_embedding=embedding,
        )
        return output
