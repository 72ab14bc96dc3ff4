"""A model's fingerprint, by which a speaker bank knows whether it is this model's."""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor


def fingerprint(weights: Iterable[tuple[str, Tensor]], training_utterances: Iterable[str]) -> str:
    """Hash weights and the training set's utterance ids, 32 hex digits."""
    state = blake2b(digest_size=16)
    for name, weight in weights:
        state.update(name.encode())
        state.update(weight.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    for utterance_id in training_utterances:
        state.update(f"{utterance_id}\n".encode())
    return state.hexdigest()
