"""`ser calibrate`: PLDC and its controls for anyone's predictions and vectors, without a model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ser_personal.calibration.controls import PLDC
from ser_personal.calibration.equation import Statistics
from ser_personal.calibration.predicted_tables import PredictionTable, read_predictions
from ser_personal.calibration.results import show
from ser_personal.calibration.table import CalibrationRow, calibration_table, standard_calibrators
from ser_personal.calibration.vector_files import Vectors, read_vectors
from ser_personal.errors import UserError
from ser_personal.ranges import LARGEST_SEED, require_range, require_scale
from ser_personal.speakers.bank import SpeakerBank

if TYPE_CHECKING:
    from collections.abc import Sequence


def calibrate_tables(
    predictions: str,
    vectors: str,
    bank: str,
    out: str,
    bank_vectors: str | None = None,
    scale: tuple[float, float] = (1, 7),
    k: int = 15,
    *,
    statistics: Statistics = "average",
    center: bool = False,
    clip: bool = False,
    draws: int = 20,
    seed: int = 0,
    min_utterances: int = 10,
) -> None:
    """Calibrate a table of predictions by PLDC and its controls, without a model.

    Writes each test utterance's predictions by every calibrator, in columns such as arousal_sigma, and prints O-CCC and
    A-CCC of each test set whose labels the table has. Where it has labelled validation rows too, those calibrators that
    are fitted on validation speakers join in: affine, and with five labelled speakers or more pldc_selected and
    posterior.

    Args:
        predictions: CSV with a row an utterance. Columns: utterance; speaker, blank where unknown; predictions in label
            points, such as arousal_raw; if you have them labels, such as arousal_label, blank where missing, and split
            (validation, test1, ...; without it everything is test). The predictions.csv of `ser test` is such a table.
        vectors: the utterances' pooled vectors: .npz or .safetensors with one array an utterance, named by it; or CSV
            with the column utterance and a column for each dimension.
        bank: what is known of training speakers: a bank (.safetensors) that `ser test` wrote, made by the same model as
            the vectors; or CSV with a row a training utterance and the columns utterance, speaker and, say,
            arousal_label; of its split only train, if it has one.
        out: CSV to write.
        bank_vectors: the training utterances' vectors where `bank` is a CSV, as in `vectors`; the same file if None.
        scale: least and greatest label, where `bank` is a CSV.
        k: training speakers, the nearest by cosine, whose label statistics are taken.
        statistics: average the neighbours' statistics (the paper), or pool their labels (the authors' late script).
        center: subtract the bank's mean vector before taking cosines (ours).
        clip: keep PLDC's predictions within the label scale (ours).
        draws: of the control with random speakers, which is scored but not written.
        seed: of these draws.
        min_utterances: labelled utterances a speaker must have to count in A-CCC.

    Raises:
        UserError: a table or file can't be read or doesn't fit the others, or a number is out of its range.
    """
    require_scale(scale)
    require_range("k", k, 1)
    require_range("draws", draws, 1)
    require_range("seed", seed, 0, LARGEST_SEED)
    require_range("min_utterances", min_utterances, 1)
    pooled = read_vectors(Path(vectors))
    table = read_predictions(Path(predictions), pooled, named_by="raw", default_split="test")
    of_bank = pooled if bank_vectors is None else read_vectors(Path(bank_vectors))
    pldc = PLDC(
        _read_bank(Path(bank), of_bank, scale), table.attributes, k, statistics=statistics, center=center, clip=clip
    )
    validation = table.part("validation").predicted
    labelled = not np.isnan(validation.labels).all()
    calibrators = standard_calibrators(pldc, validation if labelled else None, draws=draws, seed=seed)
    splits = [table.part(name) for name in sorted(set(table.splits) - {"train", "validation"})]
    if not splits:
        raise UserError(
            "no row to calibrate", where=predictions, remedy="Give rows of another split than train and validation"
        )
    frames = []
    for split in splits:
        rows = calibration_table(split.predicted, pldc, calibrators, min_utterances=min_utterances)
        if not np.isnan(split.predicted.labels).all():
            show(f"{split.splits[0]}: {len(split.utterance_ids)} utterances", rows)
        frames.append(_frame(split, rows))
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    pd.concat(frames).to_csv(out, index=False)
    print(f"written: {out}")


def _read_bank(path: Path, vectors: Vectors, scale: tuple[float, float]) -> SpeakerBank:
    if path.suffix.lower() != ".csv":
        return SpeakerBank.load(path)
    training = read_predictions(path, vectors, named_by="label", default_split="train").part("train")
    if not training.utterance_ids:
        raise UserError("no training row", where=path, remedy="Mark training rows as train in the column split")
    known = training.predicted
    return SpeakerBank.from_utterances(known.speaker_ids, known.pooled, known.labels, training.attributes, scale)


def _frame(split: PredictionTable, rows: Sequence[CalibrationRow]) -> pd.DataFrame:
    columns: dict[str, Any] = {
        "utterance": split.utterance_ids,
        "speaker": split.predicted.speaker_ids,
        "split": split.splits,
    }
    for number, attribute in enumerate(split.attributes):
        columns[f"{attribute}_label"] = split.predicted.labels[:, number]
        for row in rows:
            if not row.is_oracle and row.name != "random_speakers":
                columns[f"{attribute}_{row.name}"] = row.predictions[0][:, number]
    return pd.DataFrame(columns)
