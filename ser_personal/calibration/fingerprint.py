"""A model's fingerprint, by which a speaker bank knows whether it is this model's."""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor

    from ser_personal.types import Utterance


def fingerprint(
    weights: Iterable[tuple[str, Tensor]], settings: object, training_utterances: Iterable[Utterance]
) -> str:
    """Hash all that a bank depends on, 32 hex digits.

    Args:
        weights: of the personalised encoder, by name.
        settings: what else its frames depend on, as `repr` tells it.
        training_utterances: whose ids, speakers and labels count.
    """
    state = blake2b(f"{settings}\n".encode(), digest_size=16)
    for name, weight in weights:
        state.update(name.encode())
        state.update(weight.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    for utterance in training_utterances:
        annotated = (utterance.utterance_id, utterance.speaker_id, sorted(utterance.labels.items()))
        state.update(f"{annotated}\n".encode())
    return state.hexdigest()
