"""The speaker bank: one vector and the label statistics of every training speaker (paper, PLDC)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from ser_personal.errors import UserError, as_names, require_scale
from ser_personal.files import atomic_write
from ser_personal.scores import Moments, rows_by_speaker

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray
    from torch import Tensor

FORMAT = "ser_personal.speaker_bank"
FORMAT_VERSION = 2
_ARRAYS = ("vectors", "count", "label_mean", "label_std", "training_mean", "training_std")


@dataclass(frozen=True, eq=False)
class SpeakerBank:
    """Vectors and label statistics of the training speakers, for calibration.

    Attributes:
        speaker_ids: (speakers,), sorted.
        vectors: (speakers, dim), float64, each speaker's mean over utterances of `pooled`.
        attributes: names of the label columns.
        scale: least and greatest label of the corpus.
        count: (speakers, attributes), int64, labelled utterances.
        label_mean: (speakers, attributes), label points, NaN where count is 0.
        label_std: (speakers, attributes), their population standard deviation (ddof 0), NaN where count is 0.
        training_mean, training_std: (dim,), of `pooled` over all utterances of known speakers (ddof 0).
        fingerprint: hash of the model and data that it was made from, a hyphen, hash of the model; "" where unknown.
    """

    speaker_ids: tuple[str, ...]
    vectors: NDArray[np.float64]
    attributes: tuple[str, ...]
    scale: tuple[float, float]
    count: NDArray[np.int64]
    label_mean: NDArray[np.float64]
    label_std: NDArray[np.float64]
    training_mean: NDArray[np.float64]
    training_std: NDArray[np.float64]
    fingerprint: str = ""

    def __repr__(self) -> str:
        speakers, dim = self.vectors.shape
        what = f"{', '.join(self.attributes)} from {self.scale[0]:g} to {self.scale[1]:g}"
        return f"{type(self).__name__}({speakers} speakers, {what}; vectors of {dim})"

    @staticmethod
    def from_utterances(
        speaker_ids: Sequence[str | None],
        pooled: ArrayLike | Tensor,
        labels: ArrayLike | Tensor,
        attributes: Sequence[str],
        scale: tuple[float, float] = (1, 7),
        fingerprint: str = "",
    ) -> SpeakerBank:
        """Make the bank of the speakers of some utterances; those of unknown speakers (None) are left out.

        `pooled` (utterances, dim) and `labels` (utterances, attributes; label points, NaN where missing) are arrays
        or tensors; unlabelled utterances count in the vectors as well. Other arguments are as the bank has them.
        """
        builder = SpeakerBankBuilder(attributes, scale, fingerprint)
        builder.add(speaker_ids, pooled, labels)
        return builder.build()

    def save(self, path: str | Path) -> None:
        """Write the bank as safetensors; a reader finds the whole file or the one before it, never a part."""
        from safetensors.numpy import save

        metadata = {
            "format": FORMAT,
            "version": str(FORMAT_VERSION),
            "speaker_ids": json.dumps(self.speaker_ids),
            "attributes": json.dumps(self.attributes),
            "scale": json.dumps(self.scale),
            "fingerprint": self.fingerprint,
        }
        atomic_write(path, save({name: np.ascontiguousarray(getattr(self, name)) for name in _ARRAYS}, metadata))

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a bank that `save` wrote."""
        from safetensors import SafetensorError, safe_open

        path = Path(path)
        if not path.is_file():
            remedy = "Build the bank with `ser test`, or give the file that it wrote"
            raise UserError("no speaker bank here", where=path, remedy=remedy)
        try:
            with safe_open(path, framework="numpy") as file:
                arrays = {name: file.get_tensor(name) for name in _ARRAYS}
                metadata = file.metadata()
            low, high = json.loads(metadata["scale"])
            bank = cls(
                speaker_ids=tuple(json.loads(metadata["speaker_ids"])),
                attributes=tuple(json.loads(metadata["attributes"])),
                scale=(low, high),
                fingerprint=metadata["fingerprint"],
                **arrays,
            )
            of_version = (metadata["format"], metadata["version"]) == (FORMAT, str(FORMAT_VERSION))
            if not of_version or not bank._is_sound:
                raise ValueError("another version, or arrays that don't fit")
        except (KeyError, SafetensorError, TypeError, ValueError) as error:
            what = f"not a speaker bank of format {FORMAT_VERSION}, or a damaged one ({error})"
            remedy = "Delete it, and `ser test` builds it again; if it is a bundle's, export the bundle again"
            raise UserError(what, where=path, remedy=remedy) from error
        return bank

    @property
    def _is_sound(self) -> bool:
        of_labels = (len(self.speaker_ids), len(self.attributes))
        return (
            self.vectors.shape[:-1] == of_labels[:1]
            and self.count.shape == self.label_mean.shape == self.label_std.shape == of_labels
            and self.training_mean.shape == self.training_std.shape == self.vectors.shape[1:]
            and bool(np.isfinite(self.vectors).all())
            and bool(np.isfinite(np.where(self.count > 0, [self.label_mean, self.label_std], 0.0)).all())
        )


class SpeakerBankBuilder:
    """Builds a bank from a stream of batches, keeping only the moments of each speaker: memory grows with speakers."""

    def __init__(self, attributes: Sequence[str], scale: tuple[float, float] = (1, 7), fingerprint: str = "") -> None:
        require_scale(scale)
        self.attributes = as_names("attributes", attributes)
        self.scale = scale
        self.fingerprint = fingerprint
        self._dim = 0
        # speaker -> moments (dim + attributes,) of vectors and labels
        self._moments: dict[str, Moments] = {}

    def add(self, speaker_ids: Sequence[str | None], pooled: ArrayLike | Tensor, labels: ArrayLike | Tensor) -> None:
        """Add utterances; shapes and errors as in `SpeakerBank.from_utterances`."""
        vectors, labels = as_float64(pooled), as_float64(labels)
        rows, columns = len(speaker_ids), len(self.attributes)
        if vectors.ndim != 2 or len(vectors) != rows or labels.shape != (rows, columns):
            what = f"pooled {vectors.shape} and labels {labels.shape} are not ({rows}, dim) and ({rows}, {columns})"
            remedy = f"Give a row per utterance, and a column of labels for each of {', '.join(self.attributes)}"
            raise UserError(what, where="speaker bank", remedy=remedy)
        self._dim = vectors.shape[1]
        values = np.concatenate([vectors, labels], axis=1)
        for speaker_id, own in rows_by_speaker(speaker_ids).items():
            if not np.isfinite(vectors[own]).all() or np.isinf(labels[own]).any():
                remedy = "Check the speaker's audio, that the model's weights are finite, and the labels"
                raise UserError("a pooled vector or a label isn't finite", where=f"speaker {speaker_id}", remedy=remedy)
            self._add(speaker_id, Moments.of(values[own]))

    def _add(self, speaker_id: str, moments: Moments) -> None:
        self._dim = len(moments.mean) - len(self.attributes)
        before = self._moments.get(speaker_id, Moments.empty(*moments.mean.shape))
        self._moments[speaker_id] = before.merge(moments)

    def save(self, path: Path) -> None:
        """Write the moments, for a builder of another process to `merge`."""
        speaker_ids, moments = self._stacked()
        with path.open("wb") as file:
            np.savez(file, allow_pickle=False, speaker_ids=np.array(speaker_ids, dtype=str), **vars(moments))

    def merge(self, path: Path) -> None:
        """Add what another process added; the order changes nothing but the rounding in float64."""
        with np.load(path, allow_pickle=False) as file:
            names, *arrays = (file[name] for name in ("speaker_ids", "count", "mean", "m2"))
        for speaker_id, *moments in zip(names.tolist(), *arrays, strict=True):
            self._add(speaker_id, Moments(*moments))

    def build(self) -> SpeakerBank:
        """Make the bank of all that was added."""
        speaker_ids, moments = self._stacked()
        vectors, labels = moments[:, : self._dim], moments[:, self._dim :]
        training = vectors.total()
        return SpeakerBank(
            speaker_ids=tuple(speaker_ids),
            vectors=vectors.mean,
            attributes=self.attributes,
            scale=self.scale,
            count=labels.count.astype(np.int64),
            label_mean=np.where(labels.count > 0, labels.mean, np.nan),
            label_std=labels.std,
            fingerprint=self.fingerprint,
            training_mean=training.mean,
            training_std=np.sqrt(np.nan_to_num(training.variance)),
        )

    def _stacked(self) -> tuple[list[str], Moments]:
        speaker_ids = sorted(self._moments)
        width = self._dim + len(self.attributes)
        return speaker_ids, Moments.stack([self._moments[speaker_id] for speaker_id in speaker_ids], width)


def as_float64(array: ArrayLike | Tensor | Any) -> NDArray[np.float64]:
    """Turn an array or a tensor of any float type into a float64 array."""
    if hasattr(array, "detach"):
        array = array.detach().cpu().double().numpy()
    return np.asarray(array, dtype=np.float64)
