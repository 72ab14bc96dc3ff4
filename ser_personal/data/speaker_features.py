"""What is known of speakers beside their names: a vector each, from any tool, that batches carry to the model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np
import torch

from ser_personal.errors import UserError
from ser_personal.types import SpeakerBatch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from ser_personal.types import Utterance

Example = TypeVar("Example")
Batch = TypeVar("Batch", bound=SpeakerBatch)


@dataclass(frozen=True, eq=False)
class SpeakerFeatures:
    """One vector a speaker.

    Attributes:
        speaker_ids: (speakers,).
        vectors: (speakers, feature_dim), float32, finite.
        source: where they come from, for messages.
    """

    speaker_ids: tuple[str, ...]
    vectors: NDArray[np.float32]
    source: str

    @cached_property
    def _row_of(self) -> dict[str, int]:
        return {speaker_id: row for row, speaker_id in enumerate(self.speaker_ids)}

    def of(self, speaker_ids: Sequence[str | None]) -> NDArray[np.float32]:
        """Look up speakers, -> (speakers, feature_dim), NaN for unknown ones (None).

        Raises:
            UserError: a known speaker has no features.
        """
        missing = sorted({id_ for id_ in speaker_ids if id_ is not None and id_ not in self._row_of})
        if missing:
            raise UserError(
                f"no features of speaker {missing[0]}" + (f" and {len(missing) - 1} others" if missing[1:] else ""),
                where=self.source,
                remedy="Make them for every speaker of the corpus, or leave --data.speaker_features out",
            )
        found = np.full((len(speaker_ids), self.vectors.shape[1]), np.nan, dtype=np.float32)
        for place, speaker_id in enumerate(speaker_ids):
            if speaker_id is not None:
                found[place] = self.vectors[self._row_of[speaker_id]]
        return found

    def permuted(self) -> SpeakerFeatures:
        """The same vectors, each of another speaker, as a control; the same way each time."""
        order = np.random.default_rng(0).permutation(len(self.speaker_ids))
        moved = np.empty_like(self.vectors)
        moved[order] = self.vectors[np.roll(order, -1)]
        return SpeakerFeatures(self.speaker_ids, moved, f"{self.source}, permuted")

    def fingerprint(self) -> str:
        """Hash of ids and vectors, 32 hex digits."""
        state = blake2b("\n".join(self.speaker_ids).encode(), digest_size=16)
        state.update(self.vectors.tobytes())
        return state.hexdigest()


class SpeakerFeatureSource(ABC):
    """Where speaker features come from."""

    @abstractmethod
    def read(self, utterances: Sequence[Utterance]) -> SpeakerFeatures:
        """Read, or compute, the features of the speakers of some utterances; nobody's labels are looked at.

        Raises:
            UserError: they can't be had.
        """


class SpeakerTable(SpeakerFeatureSource):
    """A table from any tool.

    A CSV with a column `speaker` and one number a column, or an .npz or .safetensors file with an array a speaker.

    Args:
        path: the file.
    """

    def __init__(self, path: str) -> None:
        self.path = path

    def read(self, utterances: Sequence[Utterance]) -> SpeakerFeatures:
        """Read the whole table.

        Raises:
            UserError: it can't be read, or holds something else than one vector of finite numbers a speaker.
        """
        vectors = _from_csv(self.path) if Path(self.path).suffix == ".csv" else _from_arrays(self.path)
        widths = {vector.shape for vector in vectors.values()}
        if len(widths) != 1 or len(next(iter(widths))) != 1:
            raise _unfit("the speakers' vectors aren't of one length", self.path)
        ids = tuple(sorted(vectors))
        matrix = np.stack([vectors[speaker_id] for speaker_id in ids]).astype(np.float32)
        if not np.isfinite(matrix).all():
            row = int(np.argmin(np.isfinite(matrix).all(axis=1)))
            raise _unfit(f"a value of speaker {ids[row]} isn't a finite number", self.path)
        return SpeakerFeatures(ids, matrix, self.path)


class AddSpeakerFeatures(Generic[Example, Batch]):
    """A collate function that adds each speaker's features to what another one makes.

    Args:
        collate: examples -> batch.
        features: of all speakers that occur.
    """

    def __init__(self, collate: Callable[[Sequence[Example]], Batch], features: SpeakerFeatures) -> None:
        self.collate, self.features = collate, features

    def __call__(self, examples: Sequence[Example]) -> Batch:
        """Make a batch."""
        batch = self.collate(examples)
        batch["speaker_features"] = torch.from_numpy(self.features.of(batch["speaker_ids"]))
        return batch


def _from_csv(path: str) -> dict[str, NDArray[np.float64]]:
    import pandas as pd

    try:
        frame = pd.read_csv(path, dtype={"speaker": str}, keep_default_na=False)
        if "speaker" not in frame:
            raise _unfit("has no column `speaker`", path)
        twice = frame["speaker"][frame["speaker"].duplicated()]
        if len(twice):
            raise _unfit(f"names speaker {twice.iloc[0]} twice", path)
        values = frame.drop(columns="speaker").to_numpy(dtype=np.float64)
    except (OSError, ValueError) as error:
        raise _unfit(f"can't be read as numbers ({str(error).splitlines()[0]})", path) from error
    return dict(zip(frame["speaker"], values, strict=True))


def _from_arrays(path: str) -> dict[str, NDArray[np.float64]]:
    from zipfile import BadZipFile

    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        if Path(path).suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                return {name: np.asarray(arrays[name], dtype=np.float64) for name in arrays}
        return {name: np.asarray(array, dtype=np.float64) for name, array in load_file(path).items()}
    except (OSError, ValueError, BadZipFile, SafetensorError) as error:
        raise _unfit(f"can't be read ({str(error).splitlines()[0]})", path) from error


def _unfit(what: str, path: str) -> UserError:
    return UserError(
        what, where=path, remedy="Give a CSV with a column `speaker` and one number a column, .npz or .safetensors"
    )
