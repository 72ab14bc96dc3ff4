"""What is kept of the speakers whose own recordings are recognised: moments, no audio and no single utterance."""

from __future__ import annotations

import json
import sys
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
from filelock import FileLock
from typing_extensions import override

from ser_personal.calibration.few_labels import labelled_moments
from ser_personal.errors import UserError
from ser_personal.files import atomic_write
from ser_personal.scores import Moments
from ser_personal.speakers.embedding import SpeakerEmbedding
from ser_personal.speakers.unseen import UnseenPolicy

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from numpy.typing import ArrayLike, NDArray
    from torch import Tensor

    from ser_personal.recognition.network import EmotionNetwork
    from ser_personal.recognition.recordings import Recording
    from ser_personal.speakers.unseen import EmbeddingTable, UnseenSpeakers

FORMAT = "ser_personal.speaker_profiles"
FORMAT_VERSION = 3
# files of format 2 hold no labelled moments
READABLE = ("2", "3")
# no speaker of a corpus is called so: another corpus's speaker 12 isn't the enrolled one
_ENROLLED = "enrolled\0"


@dataclass(frozen=True, eq=False)
class SpeakerProfile:
    """Moments of what one speaker has said, enough to calibrate the speaker's next utterance.

    Attributes:
        vector_sum: (dim,), sum over utterances of `pooled`.
        predictions: moments (attributes,) of the predictions, label points.
        labelled: moments (3, attributes) of predictions, labels and their sums, where there are labels.
        embedding: (embedding_dim,), the speaker's own row for the model's table; None where there is none.
    """

    vector_sum: NDArray[np.float64]
    predictions: Moments
    labelled: Moments
    embedding: NDArray[np.float64] | None = None

    @classmethod
    def empty(cls, dim: int, num_attributes: int) -> Self:
        """A speaker who has said nothing yet."""
        return cls(np.zeros(dim), Moments.empty(num_attributes), Moments.empty(3, num_attributes))

    def add(
        self,
        pooled: NDArray[np.float64],
        prediction: NDArray[np.float64],
        labels: NDArray[np.float64] | None = None,
    ) -> Self:
        """The profile after one more utterance, of `pooled` (dim,), prediction and labels (attributes,)."""
        added = replace(
            self,
            vector_sum=self.vector_sum + pooled,
            predictions=self.predictions.add(prediction),
        )
        if labels is None:
            return added
        return replace(added, labelled=self.labelled.merge(labelled_moments(prediction[None], labels[None])))

    def merge(self, other: Self) -> Self:
        """The profile of the utterances of both."""
        return type(self)(
            vector_sum=self.vector_sum + other.vector_sum,
            predictions=self.predictions.merge(other.predictions),
            labelled=self.labelled.merge(other.labelled),
            embedding=other.embedding if self.embedding is None else self.embedding,
        )

    @property
    def utterances(self) -> int:
        """Utterances that the profile was made from."""
        return int(self.predictions.count[0])

    @property
    def vector(self) -> NDArray[np.float64]:
        """v_s, (dim,): the mean of `pooled`."""
        return self.vector_sum / max(self.utterances, 1)

    def arrays(self) -> dict[str, NDArray[np.float64]]:
        """All that a file keeps of it."""
        labelled = {f"labelled_{name}": array for name, array in vars(self.labelled).items()}
        arrays = {"vector_sum": self.vector_sum, **vars(self.predictions), **labelled}
        return arrays if self.embedding is None else {**arrays, "embedding": self.embedding}

    def equals(self, other: SpeakerProfile) -> bool:
        """Whether it holds the same."""
        own, others = self.arrays(), other.arrays()
        return own.keys() == others.keys() and all(np.array_equal(own[name], others[name]) for name in own)

    @classmethod
    def from_arrays(cls, arrays: dict[str, NDArray[np.float64]]) -> Self:
        """The profile of `arrays`."""
        names = ("count", "mean", "m2")
        predictions = Moments(*(arrays[name] for name in names))
        labelled = Moments.empty(3, len(predictions.mean))
        if "labelled_count" in arrays:
            labelled = Moments(*(arrays[f"labelled_{name}"] for name in names))
        return cls(arrays["vector_sum"], predictions, labelled, arrays.get("embedding"))


class SpeakerProfiles:
    """Profiles by speaker id, made by one model.

    Voice vectors are biometric data: keep them only with the speaker's consent, and `delete` them on request. The file
    is for its owner's eyes alone (mode 0600), and several programs may change it at once.

    Args:
        model: names the model that the profiles are of; those of another model can't be read with it.
        path: where every change is saved at once; None keeps profiles in memory alone.
    """

    def __init__(self, model: str, path: Path | None = None) -> None:
        self.model = model
        self.path = path
        self._profiles: dict[str, SpeakerProfile] = {}
        self._one_thread = RLock()

    @classmethod
    def open(cls, model: str, path: Path) -> Self:
        """Read the profiles that lie at `path`, where some do; from then on every change is saved there."""
        if path.is_dir():
            remedy = f"Give a file in it, such as {path / 'people.safetensors'}"
            raise UserError("is a folder, and profiles are kept in a file", where=path, remedy=remedy)
        profiles = cls(model, path)
        profiles.reload()
        return profiles

    def reload(self) -> None:
        """Read again what others may have changed in the file."""
        if self.path is not None:
            with self._one_thread:
                self._profiles = _read(self.path, self.model) if self.path.exists() else {}

    def __repr__(self) -> str:
        enrolled = ", ".join(f"{one} {self[one].utterances}" for one in self.ids[:4])
        who = f"utterances: {enrolled}{', ...' if len(self) > 4 else ''}" if enrolled else "nobody enrolled"
        return f"{type(self).__name__}({who}; {'in memory' if self.path is None else f'in {self.path}'})"

    @property
    def ids(self) -> list[str]:
        """Enrolled speakers, sorted."""
        return sorted(self._profiles)

    @property
    def labelled(self) -> set[str]:
        """Enrolled speakers with labels."""
        return {speaker_id for speaker_id in self if self[speaker_id].labelled.count.any()}

    def __iter__(self) -> Iterator[str]:
        return iter(self.ids)

    def __len__(self) -> int:
        return len(self._profiles)

    def __contains__(self, speaker_id: object) -> bool:
        return speaker_id in self._profiles

    def __getitem__(self, speaker_id: str) -> SpeakerProfile:
        if speaker_id not in self._profiles:
            raise UserError(
                "no such speaker is enrolled",
                where=f"speaker {speaker_id}",
                remedy=f"Enrolled: {', '.join(self.ids[:10]) or 'nobody yet'}{', ...' if len(self) > 10 else ''}",
            )
        return self._profiles[speaker_id]

    def id_in_network(self, speaker_id: str | None) -> str | None:
        """The network's id of a speaker with an embedding of their own; None for others."""
        if speaker_id is None or speaker_id not in self or self[speaker_id].embedding is None:
            return None
        return f"{_ENROLLED}{speaker_id}"

    def embedding_of(self, id_in_network: str | None) -> NDArray[np.float64] | None:
        """The embedding (embedding_dim,) by the network's id; None where there is none."""
        if id_in_network is None or not id_in_network.startswith(_ENROLLED):
            return None
        return self[id_in_network.removeprefix(_ENROLLED)].embedding

    def update(self, profiles: Mapping[str, SpeakerProfile], *, enrolled_only: bool = False) -> None:
        """Add profiles or replace those of the same ids, of those who are enrolled alone if so asked, and save.

        Raises:
            UserError: another program has changed one of them in the file since it was read here.
        """
        before = self._profiles
        with self._changing():
            changed = [one for one in profiles if one in before and one in self and not before[one].equals(self[one])]
            if changed:
                raise UserError(
                    f"another program has changed the profile of {changed[0]} meanwhile, so nothing is added here",
                    where=self.path or "profiles",
                    remedy="Add the recordings by `ser enroll`",
                )
            chosen = {one: profiles[one] for one in profiles if one in self or not enrolled_only}
            self._profiles = {**self._profiles, **chosen}

    def extend(
        self,
        speaker_id: str,
        empty: SpeakerProfile,
        utterances: Iterable[tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]],
    ) -> SpeakerProfile:
        """Add utterances, each as `SpeakerProfile.add` takes it, to the profile of a speaker or an empty one; save."""
        with self._changing():
            profile = self._profiles.get(speaker_id, empty)
            for utterance in utterances:
                profile = profile.add(*utterance)
            self._profiles[speaker_id] = profile
        return profile

    def merge(self, speaker_id: str, other_id: str) -> SpeakerProfile:
        """Merge two ids of one person into the first, and save."""
        with self._changing():
            merged = self[speaker_id].merge(self[other_id])
            if speaker_id == other_id:
                raise UserError("can't be merged with itself", where=f"speaker {speaker_id}", remedy="Give two ids")
            self._profiles[speaker_id] = merged
            del self._profiles[other_id]
        return merged

    def delete(self, speaker_id: str) -> None:
        """Forget a speaker, and save."""
        with self._changing():
            _ = self[speaker_id]
            del self._profiles[speaker_id]

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Start from what is in the file now, and save, while no other program does."""
        if self.path is None:
            yield
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._one_thread, FileLock(self.path.with_name(f".{self.path.name}.lock")):
            self.reload()
            yield
            self._save(self.path)

    def _save(self, path: Path) -> None:
        from safetensors.numpy import save

        arrays = {
            f"{row}.{name}": np.ascontiguousarray(array)
            for row, speaker_id in enumerate(self)
            for name, array in self[speaker_id].arrays().items()
        }
        metadata = {
            "format": FORMAT,
            "version": str(FORMAT_VERSION),
            "model": self.model,
            "speaker_ids": json.dumps(self.ids),
        }
        atomic_write(path, save(arrays, metadata), mode=0o600)


def _read(path: Path, model: str) -> dict[str, SpeakerProfile]:
    from safetensors import SafetensorError, safe_open

    remedy = "Give the file that was saved with this model, or the name of a new one"
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UserError(f"not a complete file of speaker profiles ({error})", where=path, remedy=remedy) from error
    if metadata.get("format") != FORMAT:
        raise UserError("safetensors, but no speaker profiles", where=path, remedy=remedy)
    if metadata.get("version") not in READABLE:
        raise UserError(
            f"speaker profiles of format {metadata.get('version')}; this version reads format {FORMAT_VERSION}",
            where=path,
            remedy="Update ser_personal, or enrol the speakers again",
        )
    if metadata.get("model") != model:
        raise UserError("holds speaker profiles of another model", where=path, remedy=remedy)
    of_row: dict[str, dict[str, NDArray[np.float64]]] = {}
    for name, array in arrays.items():
        row, _, kind = name.partition(".")
        of_row.setdefault(row, {})[kind] = array
    try:
        ids = json.loads(metadata["speaker_ids"])
        return {speaker_id: SpeakerProfile.from_arrays(of_row[str(row)]) for row, speaker_id in enumerate(ids)}
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"damaged speaker profiles (no {error})", where=path, remedy=remedy) from error


class EnrolledEmbeddings(UnseenPolicy):
    """The embedding of an enrolled speaker, under the model's fully connected layer; another policy for all others."""

    def __init__(self, profiles: SpeakerProfiles, otherwise: UnseenPolicy) -> None:
        self.profiles = profiles
        self.otherwise = otherwise

    @override
    def embed(self, unseen: UnseenSpeakers, table: EmbeddingTable) -> Tensor:
        rows = [self.profiles.embedding_of(name) for name in unseen.ids]
        if all(row is not None for row in rows):
            embeddings = table.embeddings.new_zeros(len(rows), table.embeddings.shape[1])
        else:
            embeddings = self.otherwise.embed(unseen, table).clone()
        for place, row in enumerate(rows):
            if row is not None:
                embeddings[place] = table.fc(torch.from_numpy(row).to(table.fc.weight))
        return embeddings


def use_enrolled_embeddings(network: EmotionNetwork, profiles: SpeakerProfiles) -> None:
    """Have a network with a speaker table use the embeddings of enrolled speakers, where any has one."""
    speakers = network.personalized.speakers
    if isinstance(speakers, SpeakerEmbedding) and any(profiles[id_].embedding is not None for id_ in profiles):
        otherwise = speakers.unseen.otherwise if isinstance(speakers.unseen, EnrolledEmbeddings) else speakers.unseen
        speakers.unseen = EnrolledEmbeddings(profiles, otherwise)


def label_rows(
    labels: Mapping[str, ArrayLike],
    recordings: Sequence[Recording],
    attributes: Sequence[str],
    scale: tuple[float, float] | None,
) -> NDArray[np.float64]:
    """Labels by attribute -> (recordings, attributes), NaN where missing.

    Raises:
        UserError: another attribute, not one number a recording, or a label off the scale.
    """
    rows = np.full((len(recordings), len(attributes)), np.nan)
    low, high = scale or (-sys.float_info.max, sys.float_info.max)
    for attribute, values in labels.items():
        if attribute not in attributes:
            remedy = f"Give labels of {', '.join(attributes)}"
            raise UserError(f"the model doesn't predict {attribute}", where="labels", remedy=remedy)
        try:
            column = np.asarray(values, dtype=np.float64)
        except (TypeError, ValueError) as error:
            remedy = "Give one number a recording, NaN where there is no label"
            raise UserError(f"aren't numbers ({error})", where=f"labels of {attribute}", remedy=remedy) from error
        if column.shape != (len(recordings),):
            count = column.size if column.ndim == 1 else column.shape
            what = f"{count} labels for {len(recordings)} recordings"
            remedy = "Give one a recording, in their order, NaN where there is none"
            raise UserError(what, where=f"labels of {attribute}", remedy=remedy)
        for row in np.flatnonzero(~np.isnan(column) & ~((column >= low) & (column <= high))).tolist():
            what = f"{attribute} is {column[row]:g}, outside the scale {low:g} to {high:g}"
            remedy = "Correct the label, or leave it out"
            raise UserError(what, where=recordings[row].source, remedy=remedy)
        rows[:, attributes.index(attribute)] = column
    return rows


def with_adapted_embedding(
    profile: SpeakerProfile, network: EmotionNetwork, checkpoint: str, speaker_id: str
) -> SpeakerProfile:
    """Add the row of a checkpoint of `SpeakerAdaptation` to a profile that has no utterances yet."""
    from ser_personal.pretrain.adapt import Adapted

    if profile.utterances:
        raise UserError(
            "has utterances in the profile that were recognised without this embedding",
            where=f"speaker {speaker_id}",
            remedy="Delete the profile, and enrol the speaker again with `adapted`",
        )
    rows = Adapted(checkpoint).rows
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
    return replace(profile, embedding=rows[speaker_id].double().numpy())
