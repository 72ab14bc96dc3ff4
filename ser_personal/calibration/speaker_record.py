"""speakers.json and speakers.safetensors: who was tested, by whom they were calibrated, and the vectors behind it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ser_personal.calibration.results import write_json
from ser_personal.files import write_whole
from ser_personal.finetune.scores import rows_by_speaker

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from ser_personal.calibration.pldc import Calibration
    from ser_personal.calibration.shift import ShiftTable, SpeakerShift
    from ser_personal.types import Utterance

RECORD, VECTORS = "speakers.json", "speakers.safetensors"
TRAINING, EMBEDDINGS = "training", "embeddings"


@dataclass(frozen=True, eq=False)
class SpeakerVectors:
    """One vector a speaker.

    Attributes:
        speaker_ids: (speakers,).
        vectors: (speakers, dim).
    """

    speaker_ids: tuple[str, ...]
    vectors: NDArray[Any]

    @classmethod
    def of_utterances(cls, speaker_ids: Sequence[str | None], pooled: NDArray[np.float64]) -> SpeakerVectors:
        """Average `pooled` (utterances, dim) over each known speaker's utterances."""
        rows_of = rows_by_speaker(speaker_ids)
        means = [pooled[rows].mean(axis=0) for rows in rows_of.values()]
        return cls(tuple(rows_of), np.reshape(means, (-1, pooled.shape[1])))


def describe_speakers(utterances: Sequence[Utterance]) -> dict[str, dict[str, Any]]:
    """Known speaker -> gender (None where unknown), number of utterances, and their seconds (None where unknown)."""
    described = {}
    for speaker_id, rows in rows_by_speaker([utterance.speaker_id for utterance in utterances]).items():
        own = [utterances[row] for row in rows]
        seconds = float(sum(utterance.seconds for utterance in own))
        described[speaker_id] = {
            "gender": next((utterance.gender for utterance in own if utterance.gender), None),
            "utterances": len(own),
            "seconds": None if np.isnan(seconds) else seconds,
        }
    return described


def describe_calibration(calibration: Calibration) -> dict[str, dict[str, Any]]:
    """Known speaker -> neighbours, cosines and, attribute by attribute, the moments before and after."""

    def named(values: NDArray[np.float64]) -> dict[str, float | None]:
        pairs = zip(calibration.attributes, values.tolist(), strict=True)
        return {attribute: _or_none(value) for attribute, value in pairs}

    return {
        speaker.speaker_id: {
            "neighbours": list(speaker.neighbours),
            "cosines": speaker.cosines.tolist(),
            "mu": named(speaker.mu),
            "sigma": named(speaker.sigma),
            "mu_bar": named(speaker.mu_bar),
            "sigma_bar": named(speaker.sigma_bar),
        }
        for speaker in calibration.speakers
    }


def describe_shifts(shifts: Mapping[str, SpeakerShift]) -> dict[str, dict[str, Any]]:
    """Known speaker -> how far from the training set their features and, attribute by attribute, their labels lie."""
    return {
        speaker_id: {
            "feature_shift": _or_none(shift.feature),
            "label_shift": {attribute: _or_none(value) for attribute, value in shift.label.items()},
        }
        for speaker_id, shift in shifts.items()
    }


def describe_correlations(table: ShiftTable) -> dict[str, float | int | None]:
    """How many speakers the correlations of shifts and CCC are over, and each of them."""
    found = {name: _or_none(float(value[0])) for name, value in table.correlations().items()}
    return {"speakers": len(table.speakers), **found}


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else value


def write_speakers(folder: Path, record: dict[str, Any], vectors: Mapping[str, SpeakerVectors]) -> None:
    """Write both files.

    Args:
        folder: of the run.
        record: what speakers.json holds.
        vectors: set -> its speaker vectors; beside the test sets `training`, of the bank, and `embeddings`, the e_s of
            the speakers in the embedding table, where there is one.
    """
    from safetensors.numpy import save

    write_json(folder / RECORD, record)
    arrays = {name: np.ascontiguousarray(of.vectors, dtype=np.float32) for name, of in vectors.items()}
    ids = {name: json.dumps(of.speaker_ids) for name, of in vectors.items()}
    write_whole(folder / VECTORS, save(arrays, ids))


def read_vectors(path: Path) -> dict[str, SpeakerVectors]:
    """Read the vectors that `write_speakers` wrote."""
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata() or {}
        return {
            name: SpeakerVectors(tuple(json.loads(metadata[name])), file.get_tensor(name)) for name in sorted(metadata)
        }
