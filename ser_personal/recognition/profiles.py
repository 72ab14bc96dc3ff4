"""What is kept of the speakers whose own recordings are recognised: sums, no audio and no single utterance."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
import torch

from ser_personal.errors import UserError
from ser_personal.files import atomic_write
from ser_personal.scores import Moments
from ser_personal.speakers.embedding import SpeakerEmbedding
from ser_personal.speakers.unseen import UnseenPolicy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from torch import Tensor

    from ser_personal.recognition.network import EmotionNetwork
    from ser_personal.speakers.unseen import EmbeddingTable, UnseenSpeakers

FORMAT = "ser_personal.speaker_profiles"
FORMAT_VERSION = 1
# no speaker of a corpus is called so: another corpus's speaker 12 isn't the enrolled one
_ENROLLED = "enrolled\0"


@dataclass(frozen=True, eq=False)
class SpeakerProfile:
    """Running sums over what one speaker has said, enough to calibrate the speaker's next utterance.

    Moments go by Welford's update: equal predictions have a deviation of exactly 0.

    Attributes:
        utterances: how many.
        vector_sum: (dim,), sum over utterances of `pooled`.
        prediction_mean: (attributes,), label points.
        prediction_squares: (attributes,), summed squared deviations from that mean.
        prediction_magnitude: (attributes,), label points, the greatest absolute prediction.
        embedding: (embedding_dim,), the speaker's own row for the model's table; None where there is none.
    """

    utterances: int
    vector_sum: NDArray[np.float64]
    prediction_mean: NDArray[np.float64]
    prediction_squares: NDArray[np.float64]
    prediction_magnitude: NDArray[np.float64]
    embedding: NDArray[np.float64] | None = None

    @classmethod
    def empty(cls, dim: int, num_attributes: int) -> Self:
        """A speaker who has said nothing yet."""
        return cls(0, np.zeros(dim), np.zeros(num_attributes), np.zeros(num_attributes), np.zeros(num_attributes))

    def heard(self, pooled: NDArray[np.float64], prediction: NDArray[np.float64]) -> Self:
        """The profile after one more utterance, of `pooled` (dim,) and prediction (attributes,)."""
        return self.merged(type(self)(1, pooled, prediction, np.zeros_like(prediction), np.abs(prediction)))

    def merged(self, other: Self) -> Self:
        """The profile of both speakers' utterances together (Chan, Golub and LeVeque, 1983)."""
        utterances = self.utterances + other.utterances
        share = other.utterances / max(utterances, 1)
        apart = other.prediction_mean - self.prediction_mean
        return type(self)(
            utterances=utterances,
            vector_sum=self.vector_sum + other.vector_sum,
            prediction_mean=self.prediction_mean + share * apart,
            prediction_squares=self.prediction_squares + other.prediction_squares + apart**2 * self.utterances * share,
            prediction_magnitude=np.maximum(self.prediction_magnitude, other.prediction_magnitude),
            embedding=other.embedding if self.embedding is None else self.embedding,
        )

    @property
    def vector(self) -> NDArray[np.float64]:
        """v_s, (dim,): the mean of `pooled`."""
        return self.vector_sum / max(self.utterances, 1)

    @property
    def moments(self) -> Moments:
        """Moments of the speaker's predictions."""
        count = np.full(self.prediction_mean.shape, self.utterances)
        return Moments(count, self.prediction_mean, self.prediction_squares)


_SUMS = tuple(field.name for field in fields(SpeakerProfile) if field.name not in {"utterances", "embedding"})


class SpeakerProfiles:
    """Profiles by speaker id, made by one model.

    Voice vectors are biometric data: keep them only with the speaker's consent, and `delete` them on request.

    Args:
        model: names the model that the profiles are of; those of another model can't be read with it.
        path: where every change is saved at once; None keeps profiles in memory alone.
    """

    def __init__(self, model: str, path: Path | None = None) -> None:
        self.model = model
        self.path = path
        self._profiles: dict[str, SpeakerProfile] = {}

    @classmethod
    def open(cls, model: str, path: Path) -> Self:
        """Read the profiles that lie at `path`, where some do; from then on every change is saved there.

        Raises:
            UserError: the file is damaged, holds no profiles, is of a newer format or of another model.
        """
        profiles = cls(model, path)
        if path.exists():
            profiles._profiles = _read(path, model)
        return profiles

    @property
    def ids(self) -> list[str]:
        """Enrolled speakers, sorted."""
        return sorted(self._profiles)

    def __iter__(self) -> Iterator[str]:
        return iter(self.ids)

    def __len__(self) -> int:
        return len(self._profiles)

    def __contains__(self, speaker_id: object) -> bool:
        return speaker_id in self._profiles

    def __getitem__(self, speaker_id: str) -> SpeakerProfile:
        """A speaker's profile.

        Raises:
            UserError: the speaker isn't enrolled.
        """
        if speaker_id not in self._profiles:
            raise UserError(
                "no such speaker is enrolled",
                where=f"speaker {speaker_id}",
                remedy=f"Enrolled: {', '.join(self.ids[:10]) or 'nobody yet'}{', ...' if len(self) > 10 else ''}",
            )
        return self._profiles[speaker_id]

    def name_in_network(self, speaker_id: str | None) -> str | None:
        """What the network calls a speaker: a name of its own where there is an embedding, else None."""
        if speaker_id is None or speaker_id not in self or self[speaker_id].embedding is None:
            return None
        return f"{_ENROLLED}{speaker_id}"

    def row_of(self, name: str | None) -> NDArray[np.float64] | None:
        """The embedding (embedding_dim,) of whom the network calls so; None where there is none."""
        if name is None or not name.startswith(_ENROLLED):
            return None
        return self[name.removeprefix(_ENROLLED)].embedding

    def update(self, profiles: dict[str, SpeakerProfile]) -> None:
        """Put profiles in the place of those under the same ids, or beside them, and save."""
        self._profiles = {**self._profiles, **profiles}
        self._save()

    def merge(self, speaker_id: str, other_id: str) -> SpeakerProfile:
        """Turn two ids of one person into the first of them, and save.

        Raises:
            UserError: either isn't enrolled, or both are one.
        """
        merged = self[speaker_id].merged(self[other_id])
        if speaker_id == other_id:
            raise UserError("can't be merged with itself", where=f"speaker {speaker_id}", remedy="Give two ids")
        self._profiles[speaker_id] = merged
        self.delete(other_id)
        return merged

    def delete(self, speaker_id: str) -> None:
        """Forget a speaker, and save.

        Raises:
            UserError: the speaker isn't enrolled.
        """
        _ = self[speaker_id]
        del self._profiles[speaker_id]
        self._save()

    def save(self, path: Path) -> None:
        """Write all profiles as safetensors; a reader finds the whole file or the one before it, never a part."""
        from safetensors.numpy import save

        arrays = {
            f"{row}.{name}": array
            for row, id_ in enumerate(self)
            for name in (*_SUMS, "embedding")
            if (array := getattr(self._profiles[id_], name)) is not None
        }
        metadata = {
            "format": FORMAT,
            "version": str(FORMAT_VERSION),
            "model": self.model,
            "speaker_ids": json.dumps(self.ids),
            "utterances": json.dumps([self._profiles[speaker_id].utterances for speaker_id in self]),
        }
        content = save({name: np.ascontiguousarray(array) for name, array in arrays.items()}, metadata)
        atomic_write(path, content)

    def _save(self) -> None:
        if self.path is not None:
            self.save(self.path)


def _read(path: Path, model: str) -> dict[str, SpeakerProfile]:
    from safetensors import SafetensorError, safe_open

    remedy = "Give the file that was saved with this model, or the name of a new one"
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UserError(f"not a whole file of speaker profiles ({error})", where=path, remedy=remedy) from error
    if metadata.get("format") != FORMAT:
        raise UserError("safetensors, but no speaker profiles", where=path, remedy=remedy)
    if metadata.get("version") != str(FORMAT_VERSION):
        raise UserError(
            f"speaker profiles of format {metadata.get('version')}; this version reads format {FORMAT_VERSION}",
            where=path,
            remedy="Update ser_personal, or enrol the speakers again",
        )
    if metadata.get("model") != model:
        raise UserError("holds speaker profiles of another model", where=path, remedy=remedy)
    try:
        utterances = json.loads(metadata["utterances"])
        return {
            speaker_id: SpeakerProfile(
                int(utterances[row]),
                **{name: arrays[f"{row}.{name}"] for name in _SUMS},
                embedding=arrays.get(f"{row}.embedding"),
            )
            for row, speaker_id in enumerate(json.loads(metadata["speaker_ids"]))
        }
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise UserError(f"damaged speaker profiles (no {error})", where=path, remedy=remedy) from error


class EnrolledEmbeddings(UnseenPolicy):
    """The row of an enrolled speaker, under the model's fully connected layer; another policy for everyone else.

    Args:
        profiles: of enrolled speakers, looked up anew each time.
        otherwise: what speakers get who have no such row.
    """

    def __init__(self, profiles: SpeakerProfiles, otherwise: UnseenPolicy) -> None:
        self.profiles = profiles
        self.otherwise = otherwise

    def embed(self, unseen: UnseenSpeakers, table: EmbeddingTable) -> Tensor:
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
