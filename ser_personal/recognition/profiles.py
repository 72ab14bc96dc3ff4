"""What is kept of an enrolled speaker: a sum of vectors, moments and a hash of each utterance, no audio."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import RLock
from typing import Any, Self

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from ser_personal.calibration.few_labels import labelled_moments
from ser_personal.corpus.splits import first_few
from ser_personal.errors import UserError
from ser_personal.files import atomic_write
from ser_personal.scores import Moments, Values
from ser_personal.types import plain_name

# of an utterance: pooled (dim,), prediction and labels (attributes,), and a hash of its samples
Added = tuple[Values, Values, Values | None, int]

FORMAT = "ser_personal.speaker_profiles"
FORMAT_VERSION = 4


@dataclass(frozen=True, eq=False)
class SpeakerProfile:
    """Moments of what one speaker has said, enough to calibrate the speaker's next utterance.

    An utterance counts once, however often it is added: of each, a hash of its samples is kept.

    Attributes:
        vector_sum: (dim,), sum over utterances of `pooled`.
        predictions: moments (attributes,) of the predictions, label points.
        labelled: moments (3, attributes) of predictions, labels and their sums, which give the covariance, where there
            are labels.
        hashes: (utterances,), uint64, of each one's samples.
        has_labels: (utterances, attributes), of the same.
    """

    # a printed profile shows no voice
    vector_sum: Values = field(repr=False)
    predictions: Moments
    labelled: Moments
    hashes: NDArray[np.uint64] = field(repr=False)
    has_labels: NDArray[np.bool_] = field(repr=False)

    @classmethod
    def empty(cls, dim: int, num_attributes: int) -> Self:
        """A speaker who has said nothing yet."""
        moments = Moments.empty(num_attributes), Moments.empty(3, num_attributes)
        return cls(np.zeros(dim), *moments, np.zeros(0, np.uint64), np.zeros((0, num_attributes), np.bool_))

    def add(
        self,
        pooled: Values,
        prediction: Values,
        labels: Values | None,
        sample_hash: int,
    ) -> Self:
        """The profile after an utterance of `pooled` (dim,), prediction and labels (attributes,).

        One whose hash is in the profile changes nothing, but for labels of attributes of which it had none.
        """
        added, rows = self, np.flatnonzero(self.hashes == np.uint64(sample_hash))
        if not rows.size:
            rows = np.array([len(self.hashes)])
            added = replace(
                self,
                vector_sum=self.vector_sum + pooled,
                predictions=self.predictions.add(prediction),
                hashes=np.append(self.hashes, np.uint64(sample_hash)),
                has_labels=np.pad(self.has_labels, ((0, 1), (0, 0))),
            )
        if labels is None:
            return added
        has_labels = added.has_labels.copy()
        labels = np.where(has_labels[rows[0]], np.nan, labels)
        has_labels[rows[0]] |= ~np.isnan(labels)
        moments = labelled_moments(prediction[None], labels[None])
        return replace(added, labelled=self.labelled.merge(moments), has_labels=has_labels)

    @property
    def utterances(self) -> int:
        """Utterances that the profile was made from."""
        return int(self.predictions.count[0])

    @property
    def vector(self) -> Values:
        """v_s, (dim,): the mean of `pooled`."""
        return self.vector_sum / max(self.utterances, 1)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """All that a file keeps of it."""
        labelled = {f"labelled_{name}": array for name, array in vars(self.labelled).items()}
        utterances = {"hashes": self.hashes, "has_labels": self.has_labels}
        return {"vector_sum": self.vector_sum, **vars(self.predictions), **labelled, **utterances}

    def equals(self, other: SpeakerProfile) -> bool:
        """Whether it holds the same."""
        others = other.arrays()
        return all(np.array_equal(array, others[name]) for name, array in self.arrays().items())

    @classmethod
    def from_arrays(cls, arrays: dict[str, NDArray[Any]]) -> Self:
        """The profile of `arrays`."""
        predictions, labelled = (
            Moments(*(arrays[f"{kind}{name}"] for name in ("count", "mean", "m2"))) for kind in ("", "labelled_")
        )
        return cls(arrays["vector_sum"], predictions, labelled, arrays["hashes"], arrays["has_labels"])


class SpeakerProfiles:
    """Profiles by speaker id, made by one model.

    Voice vectors are biometric data: keep them only with the speaker's consent, and `delete` them on request. The file
    is for its owner's eyes alone (mode 0600), and several programs may change it at once.

    Those at `path` are read, and every change is saved there at once; all are in memory alone if None. Profiles of
    another `model` can't be read.
    """

    def __init__(self, model: str, path: Path | None = None) -> None:
        self.model = model
        self.path = path
        self._profiles: dict[str, SpeakerProfile] = {}
        self._one_thread = RLock()
        self.reload()

    def reload(self) -> None:
        """Read again what others may have changed in the file."""
        if self.path is not None:
            with self._one_thread:
                self._profiles = _read(self.path, self.model) if self.path.exists() else {}

    @property
    def ids(self) -> list[str]:
        """Enrolled speakers, sorted."""
        return sorted(self._profiles)

    def get(self, speaker_id: str, otherwise: SpeakerProfile) -> SpeakerProfile:
        """The profile of a speaker, or another where the speaker isn't enrolled."""
        return self._profiles.get(speaker_id, otherwise)

    def __contains__(self, speaker_id: object) -> bool:
        return speaker_id in self._profiles

    def __getitem__(self, speaker_id: str) -> SpeakerProfile:
        if speaker_id not in self._profiles:
            remedy = f"Enrolled: {first_few(self.ids, 10) or 'nobody yet'}"
            raise UserError("no such speaker is enrolled", where=f"speaker {speaker_id}", remedy=remedy)
        return self._profiles[speaker_id]

    def update(self, profiles: Mapping[str, SpeakerProfile]) -> None:
        """Replace the profiles of enrolled speakers, and save; those of others aren't kept.

        One that another program has changed in the file since it was read here is refused.
        """
        before = self._profiles
        if not before.keys() & profiles.keys():
            return
        with self._changing():
            enrolled = sorted(before.keys() & profiles.keys() & self._profiles.keys())
            if changed := [one for one in enrolled if not before[one].equals(self[one])]:
                what = f"another program or thread has changed the profile of {changed[0]}, so nothing is added here"
                remedy = "Repeat it, or add the recordings by `ser enroll`"
                raise UserError(what, where=self.path or "profiles", remedy=remedy)
            self._profiles = {**self._profiles, **{one: profiles[one] for one in enrolled}}

    def extend(self, utterances: Mapping[str, Sequence[Added]], new: SpeakerProfile | None = None) -> None:
        """Add utterances to the profiles of their speakers, and save; others start from `new`, if given."""
        with self._changing():
            for speaker_id, added in utterances.items():
                profile = self._profiles.get(speaker_id, new)
                if profile is not None:
                    for utterance in added:
                        profile = profile.add(*utterance)
                    self._profiles[speaker_id] = profile

    def delete(self, speaker_id: str) -> None:
        """Forget a speaker, and save."""
        with self._changing():
            _ = self[speaker_id]
            del self._profiles[speaker_id]

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Start from what is in the file now, and save, while no other program does."""
        from safetensors.numpy import save

        if self.path is None:
            with self._one_thread:
                yield
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._one_thread, FileLock(self.path.with_name(f".{self.path.name}.lock")):
            self.reload()
            yield
            arrays = {
                f"{row}.{name}": np.ascontiguousarray(array)
                for row, speaker_id in enumerate(self.ids)
                for name, array in self[speaker_id].arrays().items()
            }
            ids = json.dumps(self.ids)
            metadata = {"format": FORMAT, "version": str(FORMAT_VERSION), "model": self.model, "speaker_ids": ids}
            atomic_write(self.path, save(arrays, metadata), mode=0o600)


def _read(path: Path, model: str) -> dict[str, SpeakerProfile]:
    from safetensors import SafetensorError, safe_open

    remedy = "Give the file that was saved with this model, or the name of a new one"
    of_row: defaultdict[str, dict[str, NDArray[Any]]] = defaultdict(dict)
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            for name in file.keys():  # noqa: SIM118
                row, _, kind = name.partition(".")
                of_row[row][kind] = file.get_tensor(name)
    except (SafetensorError, OSError) as error:
        raise UserError(f"not a complete file of speaker profiles ({error})", where=path, remedy=remedy) from error
    found = metadata.get("format"), metadata.get("version")
    if found != (FORMAT, str(FORMAT_VERSION)):
        what = f"holds {found[0]} of format {found[1]}; this version reads {FORMAT} of format {FORMAT_VERSION}"
        raise UserError(what, where=path, remedy="Update ser_personal, or enrol the speakers again")
    if metadata.get("model") != model:
        raise UserError("holds speaker profiles of another model", where=path, remedy=remedy)
    try:
        ids = [plain_name(one) for one in json.loads(metadata["speaker_ids"])]
        return {speaker_id: SpeakerProfile.from_arrays(of_row[str(row)]) for row, speaker_id in enumerate(ids)}
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"damaged speaker profiles (no {error})", where=path, remedy=remedy) from error
