"""What a test records of the model itself: its learnt speaker embeddings, and what it cost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from ser_personal.calibration.speaker_record import EMBEDDINGS, SpeakerVectors
from ser_personal.speakers.embedding import SpeakerEmbedding
from ser_personal.speakers.representation import AskedSpeakers

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer


def fusion_name(pl_module: LightningModule) -> str:
    """Name where e_s enters."""
    personalized: Any = pl_module.personalized
    return str(personalized.fusion_name)


def learnt_embeddings(pl_module: LightningModule) -> dict[str, SpeakerVectors]:
    """The learnt e_s of the speakers in the table, under `embeddings`; nothing where there is no table."""
    personalized: Any = pl_module.personalized
    speakers = personalized.speakers
    if not speakers.ids or not isinstance(speakers, SpeakerEmbedding):
        return {}
    with torch.inference_mode():
        learnt = speakers(AskedSpeakers(speakers.ids)).float().cpu().numpy()
    return {EMBEDDINGS: SpeakerVectors(tuple(speakers.ids), learnt)}


def cost(trainer: Trainer, pl_module: LightningModule, seconds: float, speech_seconds: float) -> dict[str, Any]:
    """Parameters of the model, those that its training changed, and how long the test took.

    Args:
        trainer: of the test.
        pl_module: the tested model.
        seconds: that the test took, without calibration.
        speech_seconds: of the tested utterances.
    """
    weights = list(pl_module.parameters())
    return {
        "parameters": sum(weight.numel() for weight in weights),
        "trained_parameters": sum(weight.numel() for weight in weights if weight.requires_grad),
        "test_seconds": seconds,
        "test_speech_seconds": speech_seconds,
        "device": pl_module.device.type,
        "devices": trainer.world_size,
    }
