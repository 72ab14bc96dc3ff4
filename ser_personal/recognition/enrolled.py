"""Embeddings of enrolled speakers, adapted to their voices, in the place of what strangers get. Ours."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from ser_personal.errors import UserError
from ser_personal.speakers.embedding import SpeakerEmbedding
from ser_personal.speakers.unseen import UnseenPolicy

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from ser_personal.recognition.network import EmotionNetwork
    from ser_personal.recognition.profiles import SpeakerProfile, SpeakerProfiles
    from ser_personal.speakers.unseen import SpeakerTable, UnseenSpeakers


class EnrolledEmbeddings(UnseenPolicy):
    """The row of an enrolled speaker, under the model's fully connected layer; another policy for everyone else.

    Args:
        profiles: of enrolled speakers, looked up anew each time.
        otherwise: what speakers get who have no such row.
    """

    def __init__(self, profiles: SpeakerProfiles, otherwise: UnseenPolicy) -> None:
        self.profiles = profiles
        self.otherwise = otherwise

    def embed(self, unseen: UnseenSpeakers, table: SpeakerTable) -> Tensor:
        """Embed speakers outside the table, -> (unseen, dim)."""
        rows = [self.profiles.row_of(name) for name in unseen.ids]
        if all(row is not None for row in rows):
            embeddings = table.embeddings.new_zeros(len(rows), table.embeddings.shape[1])
        else:
            embeddings = self.otherwise.embed(unseen, table).clone()
        for place, row in enumerate(rows):
            if row is not None:
                embeddings[place] = table.fc(torch.from_numpy(row).to(table.fc.weight))
        return embeddings


def listen_to_profiles(network: EmotionNetwork, profiles: SpeakerProfiles) -> None:
    """Let a network with a speaker table use the embeddings of enrolled speakers, where any brought one."""
    speakers = network.personalized.speakers
    if isinstance(speakers, SpeakerEmbedding) and any(profiles[id_].embedding is not None for id_ in profiles):
        otherwise = speakers.unseen.otherwise if isinstance(speakers.unseen, EnrolledEmbeddings) else speakers.unseen
        speakers.unseen = EnrolledEmbeddings(profiles, otherwise)


def with_adapted_row(
    profile: SpeakerProfile, network: EmotionNetwork, checkpoint: str, speaker_id: str
) -> SpeakerProfile:
    """Give a speaker who hasn't been heard yet the row that a checkpoint of `SpeakerAdaptation` holds.

    Raises:
        UserError: the speaker has been heard, or there is no such row, or the model has no table that it fits.
    """
    if profile.utterances:
        raise UserError(
            "has been heard without this embedding, and what was heard doesn't go with it",
            where=f"speaker {speaker_id}",
            remedy="Delete the profile, and enrol the speaker anew with `adapted`",
        )
    return replace(profile, embedding=_adapted_row(network, checkpoint, speaker_id))


def _adapted_row(network: EmotionNetwork, checkpoint: str, speaker_id: str) -> NDArray[np.float64]:
    """Read a speaker's row from a checkpoint of `SpeakerAdaptation`, (embedding_dim,).

    Raises:
        UserError: it holds no such row, or the model has no table that the row fits.
    """
    from ser_personal.pretrain.adapt import AdaptedRows

    rows = AdaptedRows.read(checkpoint).rows
    if speaker_id not in rows:
        raise UserError(
            f"holds no row of speaker {speaker_id}",
            where=checkpoint,
            remedy="Adapt on this speaker's recordings first: `ser fit --config configs/adapt.yaml`",
        )
    speakers = network.personalized.speakers
    width = speakers.embedding_dim if isinstance(speakers, SpeakerEmbedding) and speakers.ids else 0
    if len(rows[speaker_id]) != width:
        raise UserError(
            f"rows of {len(rows[speaker_id])} values for a model whose speaker table has {width}",
            where=checkpoint,
            remedy="Adapt from the PAPT run that the model was fine-tuned from",
        )
    row: NDArray[np.float64] = rows[speaker_id].double().numpy()
    return row
