"""The files of a test run, written and read.

predictions.csv, metrics.json            every test (prediction_collector.py)
speaker_moments.csv                      a test of attributes (prediction_collector.py)
speakers.json, speakers.safetensors      a test with PLDC (pldc_callback.py)
baseline.json                            a test with configs/ridge.yaml (report/baseline.py)
config.yaml                              the command line (stages/stage_cli.py)

The speaker bank is saved beside the checkpoint.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ser_personal.calibration.controls import no_controls
from ser_personal.calibration.divergence import SpeakerShift
from ser_personal.calibration.pldc import PLDCSettings
from ser_personal.calibration.table import KEYS, MOMENTS, CalibrationRow
from ser_personal.errors import UserError
from ser_personal.files import atomic_write, write_json
from ser_personal.scores import as_json, from_json, rows_by_speaker, with_nan

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd
    from numpy.typing import NDArray

    from ser_personal.calibration.pldc import Calibration
    from ser_personal.evaluation.prediction_collector import CollectedSet
    from ser_personal.types import Utterance

PREDICTIONS, METRICS, SPEAKER_MOMENTS = "predictions.csv", "metrics.json", "speaker_moments.csv"
RECORD, VECTORS, BASELINE = "speakers.json", "speakers.safetensors", "baseline.json"
TRAINING, EMBEDDINGS = "training", "embeddings"  # beside the test sets: vectors of the bank, e_s of the embedding table
RIDGE = "ridge"  # the row of baseline.json
MU_SIGMA = ("mu", "sigma", "mu_bar", "sigma_bar")
_REMEDY = "Give the folder of a test run: `ser test ... --config configs/pldc.yaml` of this version writes it"


def predictions_table(collected: CollectedSet, model: Any, calibrated: NDArray[Any] | None = None) -> pd.DataFrame:
    """One row per utterance: what a model predicted, and the corpus's columns.

    Of attributes the labels, as they were annotated, and the raw and calibrated predictions (where there are any), with
    the digits that a model computes; of categories the likeliest, and the probability of each.
    """
    import pandas as pd

    rows, predictions = collected.utterances, collected.predicted.predictions
    columns: dict[str, Any] = {
        "utterance": [row.utterance_id for row in rows],
        "speaker": [row.speaker_id for row in rows],
        "split": [row.split for row in rows],
    }
    if model.emotions:
        columns["predicted"] = [model.emotions[index] for index in predictions.argmax(1)]
    for column, emotion in enumerate(model.emotions):
        columns[f"{emotion}_probability"] = predictions[:, column]
    for column, attribute in enumerate(model.attributes):
        columns[f"{attribute}_label"] = [row.labels.get(attribute) for row in rows]
        columns[f"{attribute}_raw"] = predictions[:, column].astype(np.float32)
        if calibrated is not None:
            columns[f"{attribute}_calibrated"] = calibrated[:, column].astype(np.float32)
    columns |= {name: [getattr(row, name) for row in rows] for name in ("gender", "seconds", "emotion")}
    return pd.DataFrame(columns)


def rows_as_json(rows: Sequence[CalibrationRow]) -> dict[str, Any]:
    """Row name -> whether it is an oracle, and attribute -> scores."""
    return {row.name: {"is_oracle": row.is_oracle, "attributes": as_json(row.scores)} for row in rows}


def write_csv(path: Path, frame: pd.DataFrame) -> None:
    """Write a table atomically."""
    atomic_write(path, frame.to_csv(index=False).encode())


@dataclass(frozen=True, eq=False)
class SpeakerVectors:
    """One vector per speaker: `speaker_ids` (speakers,) and `vectors` (speakers, dim)."""

    speaker_ids: tuple[str, ...]
    vectors: NDArray[Any]


def describe_audio(utterances: Sequence[Utterance]) -> dict[str, dict[str, Any]]:
    """Known speaker -> gender (None where unknown), number of utterances, and their seconds (None where unknown)."""
    described = {}
    for speaker_id, rows in rows_by_speaker([utterance.speaker_id for utterance in utterances]).items():
        own = [utterances[row] for row in rows]
        described[speaker_id] = {
            "gender": next((utterance.gender for utterance in own if utterance.gender), None),
            "utterances": len(own),
            "seconds": float(sum(utterance.seconds for utterance in own)),
        }
    return described


def describe_speakers(
    utterances: Sequence[Utterance], calibration: Calibration, shifts: Mapping[str, SpeakerShift]
) -> dict[str, dict[str, Any]]:
    """Known test speaker -> the entry of speakers.json, moments and label shift by attribute."""
    described = describe_audio(utterances)
    for speaker in calibration.speakers:
        entry, shift = described[speaker.speaker_id], shifts[speaker.speaker_id]
        entry |= {"neighbours": list(speaker.neighbours), "cosines": speaker.cosines.tolist()}
        for name in MU_SIGMA:
            entry[name] = dict(zip(calibration.attributes, getattr(speaker, name).tolist(), strict=True))
        entry |= {"feature_shift": shift.feature, "label_shift": shift.label}
    return described


def write_speakers(folder: Path, record: dict[str, Any], vectors: Mapping[str, SpeakerVectors]) -> None:
    """Write speakers.json, and set -> speaker vectors to speakers.safetensors."""
    from safetensors.numpy import save

    write_json(folder / RECORD, record)
    arrays = {name: np.ascontiguousarray(of.vectors, dtype=np.float32) for name, of in vectors.items()}
    ids = {name: json.dumps(of.speaker_ids) for name, of in vectors.items()}
    atomic_write(folder / VECTORS, save(arrays, ids))


def read_vectors(path: Path) -> dict[str, SpeakerVectors]:
    """Read the vectors that `write_speakers` wrote."""
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        return {
            name: SpeakerVectors(tuple(json.loads(speaker_ids)), file.get_tensor(name))
            for name, speaker_ids in sorted((file.metadata() or {}).items())
        }


def write_moments(folder: Path, tables: Sequence[pd.DataFrame]) -> None:
    """Write speaker_moments.csv, of all test sets, to a run's folder; what other rows are there already stay."""
    import pandas as pd

    path, table = folder / SPEAKER_MOMENTS, pd.concat(tables)
    if path.is_file():
        before = read_moments(path)
        table = pd.concat([before[~before["row"].isin(table["row"])], table])
    write_csv(path, table)


def read_moments(path: Path) -> pd.DataFrame:
    """Read speaker_moments.csv."""
    text = dict.fromkeys(("split", "row", "attribute", "speaker"), str)
    required = (*KEYS, "utterances", *MOMENTS, "ccc")
    return read_table(path, required, dtype=text, na_values={"ccc": [""]}, float_precision="round_trip")


def read_table(path: Path, required: Sequence[str], **options: Any) -> pd.DataFrame:
    """Read a table of a run by pandas' options; a UserError says where it is missing, damaged, or lacks a column."""
    import pandas as pd

    try:
        table: pd.DataFrame = pd.read_csv(path, keep_default_na=False, **options)
    except (OSError, ValueError) as error:
        raise UserError("can't be read", where=path, remedy="Run `ser test` again") from error
    missing = [name for name in required if name not in table.columns]
    if missing:
        raise UserError(f"no column {', '.join(missing)}", where=path, remedy="Run `ser test` again")
    return table


@dataclass(frozen=True, eq=False)
class Speaker:
    """A test speaker."""

    gender: str | None  # as the corpus spells it
    utterances: int  # how many of the set
    shift: SpeakerShift  # how far from the training set


@dataclass(frozen=True, eq=False)
class ScoredSet:
    """One test set of a run."""

    name: str
    rows: tuple[CalibrationRow, ...]
    condition_counts: dict[str, int]  # condition -> number of its speakers; metrics.json calls them `speakers`
    utterances: pd.DataFrame  # predictions.csv's rows of this set, its index 0, 1, ...; the speaker None where unknown
    speakers: dict[str, Speaker]  # the known ones
    vectors: SpeakerVectors
    intervals: dict[str, Any] | None  # how often they hold the labels, as in metrics.json; None where not measured
    permuted: int | None  # in a control that permutes speakers, how many have another one's e_s; else None

    @property
    def speaker_ids(self) -> list[str | None]:
        """Speaker of each utterance."""
        return list(self.utterances["speaker"])

    def values(self, attribute: str, kind: str) -> NDArray[np.float64]:
        """Values (utterances,) of a kind: label, raw or calibrated."""
        return self.utterances[f"{attribute}_{kind}"].to_numpy(dtype=np.float64)

    def row(self, name: str) -> CalibrationRow:
        """One row of the score table."""
        return next(row for row in self.rows if row.name == name)


@dataclass(frozen=True, eq=False)
class RunFiles:
    """What the files of a test run with PLDC hold."""

    folder: Path
    checkpoint: str  # the end of the tested one's path
    fusion: str  # where e_s entered
    attributes: tuple[str, ...]
    pldc: PLDCSettings  # of the calibration that predictions.csv holds
    scale: tuple[float, float]
    min_utterances: int  # that a speaker must have to count in A-CCC
    sets: tuple[ScoredSet, ...]  # those with labels of every attribute
    unlabelled: tuple[str, ...]  # names of the others, of which nothing can be said
    training: SpeakerVectors  # of the bank
    embeddings: SpeakerVectors | None  # the learnt e_s, where the model has any
    training_gender: dict[str, str | None]  # training speaker -> gender, None where unknown

    @property
    def name(self) -> str:
        """The last three parts of the folder's path."""
        return "/".join(self.folder.absolute().parts[-3:])

    @property
    def chosen(self) -> str:
        """The score table's name for the calibration in predictions.csv."""
        return self.pldc.variant

    @property
    def no_controls(self) -> str:
        """Why population and random_speakers are no controls of this run; empty where they are."""
        return no_controls(self.pldc.k, len(self.training.speaker_ids))


def read_run(folder: str | Path) -> RunFiles:
    """Read a test run with PLDC."""
    from safetensors import SafetensorError

    folder = Path(folder)
    for name in (PREDICTIONS, METRICS, RECORD, VECTORS):
        if not (folder / name).is_file():
            raise UserError(f"isn't a test run with PLDC, it has no {name}", where=folder, remedy=_REMEDY)
    try:
        return _read(folder)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, SafetensorError) as error:
        what = f"isn't one complete test run ({type(error).__name__}: {error})"
        raise UserError(what, where=folder, remedy="Run `ser test` again") from error


def _read(folder: Path) -> RunFiles:
    metrics, record = read_json(folder / METRICS), read_json(folder / RECORD)
    vectors = read_vectors(folder / VECTORS)
    attributes = tuple(metrics["attributes"])
    table = _read_predictions(folder / PREDICTIONS, attributes)
    sets = [
        ScoredSet(
            name=name,
            rows=tuple(
                CalibrationRow(row, from_json(content["attributes"]), content["is_oracle"])
                for row, content in [*split["rows"].items(), *_baseline_rows(folder, name, attributes)]
            ),
            condition_counts=split["speakers"],
            utterances=table[table["split"] == name].reset_index(drop=True),
            speakers={speaker: _speaker(content) for speaker, content in record["splits"][name].items()},
            vectors=vectors[name],
            intervals=split.get("intervals"),
            permuted=split.get("permuted_speakers"),
        )
        for name, split in metrics["splits"].items()
    ]
    labels = [f"{attribute}_label" for attribute in attributes]
    labelled = tuple(test for test in sets if test.utterances[labels].notna().any().all())
    if not labelled:
        raise UserError(
            f"no test set has labels of {' and '.join(attributes)}, so nothing can be scored",
            where=folder / PREDICTIONS,
            remedy="Test on a set with labels, for example --data.test_splits '[test1]'",
        )
    low, high = metrics["scale"]
    return RunFiles(
        folder=folder,
        checkpoint="/".join(Path(metrics["checkpoint"] or "not recorded").parts[-2:]),
        fusion=record["fusion"],
        attributes=attributes,
        pldc=PLDCSettings(**metrics["pldc"]),
        scale=(low, high),
        min_utterances=metrics["min_utterances"],
        sets=labelled,
        unlabelled=tuple(test.name for test in sets if test not in labelled),
        training=vectors[TRAINING],
        embeddings=vectors.get(EMBEDDINGS),
        training_gender={speaker: content["gender"] for speaker, content in record["training"].items()},
    )


def _baseline_rows(folder: Path, split: str, attributes: tuple[str, ...]) -> list[tuple[str, Any]]:
    splits = read_json(folder / BASELINE)["splits"] if (folder / BASELINE).is_file() else {}
    rows = splits.get(split, {"rows": {}})["rows"].items()
    return [(name, content) for name, content in rows if content["attributes"].keys() >= set(attributes)]


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file of a run; a UserError says where it is damaged."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (TypeError, ValueError) as error:
        raise UserError(f"broken JSON ({error})", where=path, remedy="Run `ser test` again") from error


def _read_predictions(path: Path, attributes: tuple[str, ...]) -> pd.DataFrame:
    values = [f"{attribute}_{kind}" for attribute in attributes for kind in ("label", "raw", "calibrated")]
    described = ("utterance", "speaker", "split", "gender", "seconds", "emotion")
    # a speaker may be called NA or None
    table = read_table(path, (*described, *values), dtype=str)
    table = table.astype(object).where(table != "", None)
    return table.astype(dict.fromkeys(("seconds", *values), np.float64))


def _speaker(content: dict[str, Any]) -> Speaker:
    shift = with_nan({"feature": content["feature_shift"], "label": content["label_shift"]})
    return Speaker(content["gender"], content["utterances"], SpeakerShift(**shift))
