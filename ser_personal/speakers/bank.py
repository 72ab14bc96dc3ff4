"""The speaker bank: one vector and the label statistics of every training speaker (paper, PLDC)."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from ser_personal.errors import UserError
from ser_personal.files import atomic_write, named_in_errors
from ser_personal.speakers.speaker_sums import SpeakerSums

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray
    from torch import Tensor

FORMAT = "ser_personal.speaker_bank"
FORMAT_VERSION = 1
_ARRAYS = ("vectors", "count", "label_mean", "label_std")
_OPTIONAL = ("training_mean", "training_std")
_SUMS = tuple(field.name for field in fields(SpeakerSums))
_METADATA = ("speaker_ids", "attributes", "scale", "fingerprint")


@dataclass(frozen=True, eq=False)
class SpeakerBank:
    """What is kept of the training speakers for calibration.

    Attributes:
        speaker_ids: (speakers,), sorted.
        vectors: (speakers, dim), float64, each speaker's mean over utterances of `pooled`.
        attributes: names of the label columns.
        scale: least and greatest label of the corpus.
        count: (speakers, attributes), int64, labelled utterances.
        label_mean: (speakers, attributes), label points, NaN where count is 0.
        label_std: (speakers, attributes), label points, population deviation (ddof 0), NaN where count is 0.
        fingerprint: names the model that made the vectors; "" where nobody said.
        training_mean: (dim,), mean of `pooled` over all utterances of known speakers; None where an earlier version
            wrote the bank.
        training_std: (dim,), its deviation (ddof 0).
    """

    speaker_ids: tuple[str, ...]
    vectors: NDArray[np.float64]
    attributes: tuple[str, ...]
    scale: tuple[float, float]
    count: NDArray[np.int64]
    label_mean: NDArray[np.float64]
    label_std: NDArray[np.float64]
    fingerprint: str = ""
    training_mean: NDArray[np.float64] | None = None
    training_std: NDArray[np.float64] | None = None

    @staticmethod
    def from_utterances(
        speaker_ids: Sequence[str | None],
        pooled: ArrayLike | Tensor,
        labels: ArrayLike | Tensor,
        attributes: Sequence[str],
        scale: tuple[float, float] = (1, 7),
        fingerprint: str = "",
    ) -> SpeakerBank:
        """The bank of the speakers of some utterances; those of unknown speakers (None) are left out.

        Args:
            speaker_ids: (utterances,), None where unknown.
            pooled: (utterances, dim), array or tensor; unlabelled utterances count in the vectors as well.
            labels: (utterances, attributes), label points, NaN where missing; left out attribute by attribute.
            attributes: names of the label columns.
            scale: least and greatest label of the corpus.
            fingerprint: names the model that made `pooled`.

        Raises:
            UserError: shapes that don't match, or a speaker with a value of `pooled` that isn't finite.
        """
        builder = SpeakerBankBuilder(attributes, scale, fingerprint)
        builder.add(speaker_ids, pooled, labels)
        return builder.build()

    def save(self, path: str | Path) -> None:
        """Write the bank as safetensors; a reader finds the whole file or the one before it, never a part."""
        from safetensors.numpy import save

        arrays = {name: array for name in (*_ARRAYS, *_OPTIONAL) if (array := getattr(self, name)) is not None}
        content = save({name: np.ascontiguousarray(array) for name, array in arrays.items()}, self._metadata())
        atomic_write(path, content)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a bank that `save` wrote.

        Raises:
            UserError: the file is missing, damaged, no speaker bank, or of a newer format.
        """
        from safetensors import SafetensorError, safe_open

        path = Path(path)
        if not path.is_file():
            remedy = "Build the bank with `ser test`, or give the file that it wrote"
            raise UserError("no speaker bank here", where=path, remedy=remedy)
        remedy = "Delete the file, and `ser test` builds it again"
        try:
            with safe_open(path, framework="numpy") as file:
                metadata = file.metadata() or {}
                present = file.keys()
                arrays = {name: file.get_tensor(name) for name in (*_ARRAYS, *_OPTIONAL) if name in present}
        except SafetensorError as error:
            raise UserError(f"not a whole safetensors file ({error})", where=path, remedy=remedy) from error
        if metadata.get("format") != FORMAT:
            raise UserError("safetensors, but not a speaker bank", where=path, remedy=remedy)
        if metadata.get("version", "1") != str(FORMAT_VERSION):
            raise UserError(
                f"speaker bank of format {metadata['version']}; this version reads up to {FORMAT_VERSION}",
                where=path,
                remedy="Update ser_personal, or build the bank again",
            )
        if not {*_ARRAYS} <= arrays.keys() or not {*_METADATA} <= metadata.keys():
            raise UserError("incomplete speaker bank", where=path, remedy=remedy)
        try:
            low, high = json.loads(metadata["scale"])
            bank = cls(
                speaker_ids=tuple(json.loads(metadata["speaker_ids"])),
                attributes=tuple(json.loads(metadata["attributes"])),
                scale=(low, high),
                fingerprint=metadata["fingerprint"],
                **arrays,
            )
        except (ValueError, TypeError) as error:
            raise UserError(f"damaged speaker bank ({error})", where=path, remedy=remedy) from error
        if not bank._is_whole:
            raise UserError("damaged speaker bank (its arrays don't fit)", where=path, remedy=remedy)
        return bank

    @property
    def _is_whole(self) -> bool:
        of_labels = (len(self.speaker_ids), len(self.attributes))
        return (
            self.vectors.ndim == 2
            and len(self.vectors) == len(self.speaker_ids)
            and self.count.shape == self.label_mean.shape == self.label_std.shape == of_labels
            and all(array is None or array.shape == self.vectors.shape[1:] for array in self._training_moments)
            and bool(np.isfinite(self.vectors).all())
            and bool(np.isfinite(np.where(self.count > 0, [self.label_mean, self.label_std], 0.0)).all())
        )

    @property
    def _training_moments(self) -> tuple[NDArray[np.float64] | None, ...]:
        return self.training_mean, self.training_std

    def _metadata(self) -> dict[str, str]:
        return {
            "format": FORMAT,
            "version": str(FORMAT_VERSION),
            "speaker_ids": json.dumps(self.speaker_ids),
            "attributes": json.dumps(self.attributes),
            "scale": json.dumps(self.scale),
            "fingerprint": self.fingerprint,
        }


class SpeakerBankBuilder:
    """Builds a bank while batches stream past, keeping sums for each speaker only: memory grows with speakers.

    Args:
        attributes: names of the label columns.
        scale: least and greatest label of the corpus.
        fingerprint: names the model that makes `pooled`.
    """

    def __init__(self, attributes: Sequence[str], scale: tuple[float, float] = (1, 7), fingerprint: str = "") -> None:
        self.attributes = tuple(attributes)
        self.scale = scale
        self.fingerprint = fingerprint
        self._dim: int | None = None
        self._speakers: dict[str, SpeakerSums] = {}

    def add(self, speaker_ids: Sequence[str | None], pooled: ArrayLike | Tensor, labels: ArrayLike | Tensor) -> None:
        """Count utterances in; shapes and errors as in `SpeakerBank.from_utterances`."""
        vectors, labels = as_float64(pooled), as_float64(labels)
        self._check(speaker_ids, vectors, labels)
        self._dim = vectors.shape[1]
        for speaker_id, vector, utterance_labels in zip(speaker_ids, vectors, labels, strict=True):
            if speaker_id is None:
                continue
            if not np.isfinite(vector).all():
                raise UserError(
                    "a pooled vector holds NaN or infinity",
                    where=f"speaker {speaker_id}",
                    remedy="Check the speaker's audio files and that the model's weights are finite",
                )
            if speaker_id not in self._speakers:
                self._speakers[speaker_id] = SpeakerSums.nothing(self._dim, len(self.attributes))
            self._speakers[speaker_id].add(vector, utterance_labels)

    def save(self, path: Path) -> None:
        """Write the sums, for a builder of another process to `merge`."""
        ids = sorted(self._speakers)
        sums = [self._speakers[speaker_id] for speaker_id in ids]
        arrays = {name: np.array([getattr(of, name) for of in sums]) for name in _SUMS}
        with named_in_errors(path), path.open("wb") as file:
            np.savez(file, allow_pickle=False, speaker_ids=np.array(ids, dtype=str), **arrays)

    def merge(self, path: Path) -> None:
        """Count in what another process added, exact but for the rounding of float64 sums, in whatever order."""
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
        for row, speaker_id in enumerate(arrays.pop("speaker_ids").tolist()):
            theirs = SpeakerSums(*(arrays[name][row] for name in _SUMS))
            self._dim = len(theirs.vector_sum)
            ours = self._speakers.get(speaker_id)
            if ours is None:
                self._speakers[speaker_id] = theirs
            else:
                ours.merge(theirs)

    def build(self) -> SpeakerBank:
        """The bank of all that was added."""
        speaker_ids = tuple(sorted(self._speakers))
        sums = [self._speakers[speaker_id] for speaker_id in speaker_ids]
        width = len(self.attributes)
        count = np.array([s.count for s in sums], dtype=np.int64).reshape(-1, width)
        label_mean = np.array([s.label_mean for s in sums], dtype=np.float64).reshape(-1, width)
        squares = np.array([s.label_squares for s in sums], dtype=np.float64).reshape(-1, width)
        vectors = np.array([s.vector_sum / s.utterances for s in sums], dtype=np.float64).reshape(-1, self._dim or 0)
        vector_squares = np.array([s.vector_squares for s in sums], dtype=np.float64).reshape(vectors.shape)
        utterances = np.array([s.utterances for s in sums], dtype=np.float64)
        total = max(float(utterances.sum()), 1.0)
        training_mean = utterances @ vectors / total
        between = utterances @ (vectors - training_mean) ** 2
        return SpeakerBank(
            speaker_ids=speaker_ids,
            vectors=vectors,
            attributes=self.attributes,
            scale=self.scale,
            count=count,
            label_mean=np.where(count > 0, label_mean, np.nan),
            label_std=np.where(count > 0, np.sqrt(squares / np.maximum(count, 1)), np.nan),
            fingerprint=self.fingerprint,
            training_mean=training_mean,
            training_std=np.sqrt((vector_squares.sum(axis=0) + between) / total),
        )

    def _check(
        self, speaker_ids: Sequence[str | None], vectors: NDArray[np.float64], labels: NDArray[np.float64]
    ) -> None:
        rows, dim = len(speaker_ids), "dim" if self._dim is None else self._dim
        fits = vectors.ndim == 2 and len(vectors) == rows and self._dim in {None, vectors.shape[1]}
        if not fits or labels.shape != (rows, len(self.attributes)):
            raise UserError(
                f"pooled {vectors.shape} and labels {labels.shape} are not ({rows}, {dim}) and"
                f" ({rows}, {len(self.attributes)})",
                where="speaker bank",
                remedy="Give one row an utterance, and one column of labels for each of " + ", ".join(self.attributes),
            )


def as_float64(array: ArrayLike | Tensor | Any) -> NDArray[np.float64]:
    """An array or a tensor, of any float type, as a float64 array."""
    if hasattr(array, "detach"):
        array = array.detach().cpu().double().numpy()
    return np.asarray(array, dtype=np.float64)
