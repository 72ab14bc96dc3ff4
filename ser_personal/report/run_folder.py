"""What `ser test` with PLDC left in a run's folder, read and checked once."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ser_personal.calibration.run_files import EMBEDDINGS, RECORD, TRAINING, VECTORS, SpeakerVectors, read_vectors
from ser_personal.calibration.shift import SpeakerShift
from ser_personal.errors import UserError
from ser_personal.scores import Scores, from_json

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

PREDICTIONS, METRICS, COST = "predictions.csv", "metrics.json", "cost.json"
_DESCRIBED = ("utterance", "speaker", "split", "gender", "seconds", "emotion")
_REMEDY = "Give the folder of a test run: `ser test ... --config configs/pldc.yaml` of this version writes it"


@dataclass(frozen=True)
class TableRow:
    """One row of the score table: a calibration, a control or the oracle.

    Attributes:
        name: as metrics.json has it.
        scores: attribute -> scores.
        is_oracle: it read test labels, so it is never a result.
    """

    name: str
    scores: Scores
    is_oracle: bool


@dataclass(frozen=True, eq=False)
class Speaker:
    """A test speaker and how they were calibrated.

    Attributes:
        gender: as the corpus spells it, None where unknown.
        utterances: of this speaker in the set.
        seconds: of them all, NaN where unknown.
        neighbours: (k,), training speakers, the nearest first.
        cosines: (k,), of each neighbour.
        mu: attribute -> mean of the speaker's predictions, label points; so for the other three.
        sigma: their deviation.
        mu_bar: the neighbours' mean label.
        sigma_bar: the neighbours' deviation.
        shift: how far the speaker is from the training set; NaN where an earlier version recorded none.
    """

    gender: str | None
    utterances: int
    seconds: float
    neighbours: tuple[str, ...]
    cosines: NDArray[np.float64]
    mu: dict[str, float]
    sigma: dict[str, float]
    mu_bar: dict[str, float]
    sigma_bar: dict[str, float]
    shift: SpeakerShift


@dataclass(frozen=True, eq=False)
class ScoredSet:
    """One test set of a run.

    Attributes:
        name: test1, test2, ...
        rows: the score table.
        conditions: condition -> number of speakers in it.
        utterances: predictions.csv's rows of this set, its index 0, 1, ...; the speaker None where unknown.
        speakers: known speaker -> what is recorded of them.
        vectors: the speakers' vectors.
        intervals: how often intervals hold the labels, as metrics.json has it; None where nothing was measured.
    """

    name: str
    rows: tuple[TableRow, ...]
    conditions: dict[str, int]
    utterances: pd.DataFrame
    speakers: dict[str, Speaker]
    vectors: SpeakerVectors
    intervals: dict[str, Any] | None = None

    @property
    def speaker_ids(self) -> list[str | None]:
        """Speaker of each utterance."""
        return list(self.utterances["speaker"])

    def values(self, attribute: str, kind: str) -> NDArray[np.float64]:
        """Values (utterances,) of a kind: label, raw or calibrated."""
        return self.utterances[f"{attribute}_{kind}"].to_numpy(dtype=np.float64)

    def row(self, name: str) -> TableRow:
        """One row of the score table."""
        return next(row for row in self.rows if row.name == name)


@dataclass(frozen=True, eq=False)
class RunFolder:
    """A test run.

    Attributes:
        folder: where it lies.
        checkpoint: the tested checkpoint as the run names it, None where it had none.
        fusion: where e_s entered.
        attributes: what was predicted.
        pldc: settings of the calibration that predictions.csv holds.
        scale: lowest and highest label.
        min_utterances: that a speaker must have to count in A-CCC.
        sets: the test sets with labels of every attribute.
        unlabelled: names of the other test sets, of which nothing can be said.
        training: speaker vectors of the bank.
        embeddings: the learnt e_s; None where the model has none.
        training_gender: training speaker -> gender, None where unknown.
        cost: what the test recorded: parameters, seconds, device.
    """

    folder: Path
    checkpoint: str | None
    fusion: str
    attributes: tuple[str, ...]
    pldc: dict[str, Any]
    scale: tuple[float, float]
    min_utterances: int
    sets: tuple[ScoredSet, ...]
    unlabelled: tuple[str, ...]
    training: SpeakerVectors
    embeddings: SpeakerVectors | None
    training_gender: dict[str, str | None]
    cost: dict[str, Any]

    @property
    def name(self) -> str:
        """The end of the folder's path, enough to know it by."""
        return "/".join(self.folder.absolute().parts[-3:])

    @property
    def checkpoint_name(self) -> str:
        """The end of the checkpoint's path."""
        return "not recorded" if self.checkpoint is None else "/".join(Path(self.checkpoint).parts[-2:])

    @property
    def chosen(self) -> str:
        """The score table's name for the calibration in predictions.csv."""
        names = {(False, False): "raw", (True, False): "mu", (False, True): "sigma", (True, True): "both"}
        return names[self.pldc["shift_mean"], self.pldc["scale_std"]]


def check_is_run(folder: Path) -> None:
    """Refuse a folder that lacks a file which every test run has.

    Raises:
        UserError: so it is.
    """
    for name in (PREDICTIONS, METRICS, RECORD, VECTORS, COST):
        if not (folder / name).is_file():
            raise UserError(f"isn't a test run, it has no {name}", where=folder, remedy=_REMEDY)


def read_run(folder: str | Path) -> RunFolder:
    """Read a test run.

    Raises:
        UserError: the folder isn't a test run's, or a file in it is damaged, lacks a column, or holds no label.
    """
    folder = Path(folder)
    check_is_run(folder)
    try:
        return _read_whole(folder)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        what = f"isn't the whole of one test run ({type(error).__name__}: {error})"
        raise UserError(what, where=folder, remedy="Run `ser test` again") from error


def _read_whole(folder: Path) -> RunFolder:
    metrics, record = _read_json(folder / METRICS), _read_json(folder / RECORD)
    vectors = read_vectors(folder / VECTORS)
    attributes = tuple(metrics["attributes"])
    table = _read_predictions(folder / PREDICTIONS, attributes)
    sets = [
        ScoredSet(
            name=name,
            rows=tuple(
                TableRow(row, from_json(content["attributes"]), content["is_oracle"])
                for row, content in split["rows"].items()
            ),
            conditions=split["speakers"],
            utterances=table[table["split"] == name].reset_index(drop=True),
            speakers={speaker: _speaker(content) for speaker, content in record["splits"][name].items()},
            vectors=vectors[name],
            intervals=split.get("intervals"),
        )
        for name, split in metrics["splits"].items()
    ]
    labelled = tuple(test for test in sets if _is_labelled(test, attributes))
    if not labelled:
        raise UserError(
            f"no test set has labels of {' and '.join(attributes)}, so there is nothing to score against",
            where=folder / PREDICTIONS,
            remedy="Test on a set with labels, for example --data.test_splits [test1]",
        )
    low, high = metrics["scale"]
    return RunFolder(
        folder=folder,
        checkpoint=metrics["checkpoint"],
        fusion=record["fusion"],
        attributes=attributes,
        pldc=metrics["pldc"],
        scale=(low, high),
        min_utterances=metrics["min_utterances"],
        sets=labelled,
        unlabelled=tuple(test.name for test in sets if test not in labelled),
        training=vectors[TRAINING],
        embeddings=vectors.get(EMBEDDINGS),
        training_gender={speaker: content["gender"] for speaker, content in record["training"].items()},
        cost=_read_json(folder / COST),
    )


def _is_labelled(test: ScoredSet, attributes: tuple[str, ...]) -> bool:
    return all(not np.isnan(test.values(attribute, "label")).all() for attribute in attributes)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"broken JSON ({error})", where=path, remedy="Run `ser test` again") from error
    return content


def _read_predictions(path: Path, attributes: tuple[str, ...]) -> pd.DataFrame:
    import pandas as pd

    table = pd.read_csv(path, dtype={name: str for name in _DESCRIBED if name != "seconds"})
    values = [f"{attribute}_{kind}" for attribute in attributes for kind in ("label", "raw", "calibrated")]
    missing = [name for name in (*_DESCRIBED, *values) if name not in table.columns]
    if missing:
        raise UserError(f"no column {', '.join(missing)}", where=path, remedy=_REMEDY)
    text = table.select_dtypes(include=["object", "string"]).columns
    table[text] = table[text].astype(object).where(table[text].notna(), None)
    return table


def _speaker(content: dict[str, Any]) -> Speaker:
    def numbers(name: str) -> dict[str, float]:
        return {attribute: np.nan if value is None else value for attribute, value in content[name].items()}

    feature, label = content.get("feature_shift"), content.get("label_shift", dict.fromkeys(content["mu"]))

    return Speaker(
        gender=content["gender"],
        utterances=content["utterances"],
        seconds=np.nan if content["seconds"] is None else content["seconds"],
        neighbours=tuple(content["neighbours"]),
        cosines=np.array(content["cosines"], dtype=np.float64),
        mu=numbers("mu"),
        sigma=numbers("sigma"),
        mu_bar=numbers("mu_bar"),
        sigma_bar=numbers("sigma_bar"),
        shift=SpeakerShift(
            np.nan if feature is None else feature,
            {attribute: np.nan if value is None else value for attribute, value in label.items()},
        ),
    )
