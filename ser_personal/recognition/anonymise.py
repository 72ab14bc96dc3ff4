"""What a bundle says of the training speakers, less their names."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from typing import TYPE_CHECKING, cast

import numpy as np
import torch

from ser_personal.errors import UserError
from ser_personal.speakers.embedding import SpeakerEmbedding
from ser_personal.speakers.unseen import Mean, Zero

if TYPE_CHECKING:
    from ser_personal.recognition.network import EmotionNetwork
    from ser_personal.speakers.bank import SpeakerBank


def anonymised_bank(bank: SpeakerBank, rng: np.random.Generator) -> SpeakerBank:
    """The bank under new ids in a new order, so that not even the order of the old ones is left.

    Vectors and label statistics stay, for calibration needs them.
    """
    order = rng.permutation(len(bank.speaker_ids))
    width = len(str(len(order)))
    return replace(
        bank,
        speaker_ids=tuple(f"speaker-{row:0{width}}" for row in range(1, len(order) + 1)),
        vectors=bank.vectors[order],
        count=bank.count[order],
        label_mean=bank.label_mean[order],
        label_std=bank.label_std[order],
        fingerprint="",
    )


def anonymised_network(network: EmotionNetwork) -> EmotionNetwork:
    """The network with one row in its speaker table, the mean of all: what unseen speakers get stays the same.

    Raises:
        UserError: the model knows no other than its training speakers.
    """
    speakers = network.personalized.speakers
    if not isinstance(speakers, SpeakerEmbedding):
        anonymous = deepcopy(network)
        anonymous.personalized.speakers.ids = []
        return anonymous
    if speakers.embedding is None:
        return network
    if not isinstance(speakers.unseen, Mean | Zero):
        raise UserError(
            f"needs its training speakers, for its policy for unseen ones is {type(speakers.unseen).__name__}",
            where="--anonymise",
            remedy="Train with --model.speakers.unseen Mean or Zero",
        )
    anonymous = deepcopy(network)
    table = cast("SpeakerEmbedding", anonymous.personalized.speakers)
    with torch.no_grad():
        mean = speakers.embedding.weight.mean(0, keepdim=True)
        table.ids = ["anyone"]
        table.embedding = torch.nn.Embedding.from_pretrained(mean)
    return anonymous
