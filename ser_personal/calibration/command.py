"""`ser calibrate`: PLDC and its controls for anyone's predictions and vectors, without a model."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jsonargparse.typing import PositiveInt

from ser_personal.calibration.pldc import FLOAT32_ROUNDING, PLDC, PRIOR_UTTERANCES, PLDCSettings
from ser_personal.calibration.table import (
    PredictedSet,
    calibration_table,
    of_other_speakers,
    print_scores,
    standard_calibrators,
)
from ser_personal.corpus.splits import canonical_split, first_few
from ser_personal.corpus.table import (
    Row,
    Vectors,
    check_ending,
    is_table,
    known,
    read_number,
    read_rows,
    read_vectors,
    write_rows,
)
from ser_personal.errors import UserError
from ser_personal.files import refuse_existing
from ser_personal.speakers.bank import SpeakerBank
from ser_personal.types import Seed


def read_predictions(
    path: Path, vectors: Vectors, *, training: bool
) -> tuple[tuple[str, ...], pd.DataFrame, PredictedSet]:
    """Read columns utterance, speaker, split, ATTRIBUTE_raw and ATTRIBUTE_label; others are ignored.

    Of `training`, read the rows of that split, which is that of a blank one, and whose labels name the attributes; else
    all other rows, a blank split being test, whose predictions, none of them blank, do.

    -> attributes; columns utterance, speaker and split; predictions and labels, NaN where missing, with the vectors.
    """
    rows = read_rows(path, required=("utterance", "speaker"), filled=("utterance",))
    end, default_split = ("_label", "train") if training else ("_raw", "test")
    attributes = tuple(column.removesuffix(end) for column in rows[0] if column.endswith(end))
    if not attributes:
        what = f"no column whose name ends in {end} (found: {', '.join(rows[0])})"
        raise UserError(what, where=path, remedy=f"Name the columns by attribute, such as arousal{end}")
    for attribute in attributes:
        label = f"{attribute}_label"
        meant = {label.lower(), attribute.lower()}
        unread = next((column for column in rows[0] if column.lower() in meant), None)
        if label not in rows[0] and unread is not None:
            remedy = f"Did you mean {label}? Rename it so, or to something else if it holds no labels"
            raise UserError(f"column {unread} isn't read", where=path, remedy=remedy)
    name, times = Counter(row["utterance"] for row in rows).most_common(1)[0]
    if times > 1:
        raise UserError(f"lists utterance {name} {times} times", where=path, remedy="Keep one of the rows")
    rows = [row | {"split": canonical_split(row.get("split") or default_split)} for row in rows]
    rows = [row for row in rows if (row["split"] == "train") == training]
    if all(row["split"] == "validation" for row in rows):
        kind = "training" if training else "test"
        raise UserError(f"no {kind} row", where=path, remedy=f"Mark {kind} rows by their set in the column split")
    missing = next((row["utterance"] for row in rows if row["utterance"] not in vectors), None)
    if missing is not None:
        remedy = "Give a vector for each row, by the same name"
        raise UserError(f"utterance {missing} has no vector", where=path, remedy=remedy)

    def numbers(row: Row, kind: str, missing: tuple[str, ...]) -> list[float]:
        where, remedy = f"{path}, utterance {row['utterance']}", "Write a number; only a missing label may be blank"
        return [read_number(row, f"{name}_{kind}", where, remedy, missing=missing) for name in attributes]

    blank = ("", "nan")
    predicted = PredictedSet(
        predictions=np.array([numbers(row, "raw", blank if training else ()) for row in rows]),
        speaker_ids=tuple(known(row["speaker"]) for row in rows),
        pooled=np.stack([vectors[row["utterance"]] for row in rows]),
        labels=np.array([numbers(row, "label", blank) for row in rows]),
    )
    named = pd.DataFrame({name: [row[name] for row in rows] for name in ("utterance", "split")})
    named.insert(1, "speaker", predicted.speaker_ids)
    return attributes, named, predicted


def require_on_scale(values: pd.DataFrame, kind: str, scale: tuple[float, float], path: str | Path) -> None:
    """Refuse predictions most of which are outside the scale, and labels any of which is; a row is an utterance."""
    low, high = scale
    rounding = FLOAT32_ROUNDING * (high - low)
    for attribute, column in values.items():
        outside = column[(column < low - rounding) | (column > high + rounding)]
        if len(outside) > (0 if kind == "labels" else column.count() / 2):
            what = f"{len(outside)} of {column.count()} {kind} of {attribute}, the first {outside.iloc[0]:g} of"
            what += f" utterance {outside.index[0]}, are outside the labels' scale, {low:g} to {high:g}"
            remedy = f"Bring them to it: from A to B by {low:g} + {high - low:g} * (value - A) / (B - A)"
            raise UserError(what, where=path, remedy=remedy)


def calibrate_tables(
    predictions: str,
    vectors: str,
    bank: str,
    out: str,
    bank_vectors: str | None = None,
    scale: tuple[float, float] = (1, 7),
    *,
    draws: PositiveInt = 20,
    seed: Seed = 0,
    min_utterances: PositiveInt = 10,
    replace: bool = False,
    **settings: Any,
) -> None:
    """Calibrate a table of predictions by PLDC and its controls, without a model.

    Writes each test utterance's predictions by every calibrator, in columns such as arousal_sigma, and prints O-CCC and
    A-CCC of each test set whose labels the table has. Where it has validation rows with labels of every attribute, the
    calibrators fitted on validation speakers are added: affine, and with five labelled speakers or more posterior.

    Args:
        predictions: table, a row per utterance. Columns: utterance; speaker, blank where unknown; predictions in label
            points, such as arousal_raw; if you have them labels, such as arousal_label, blank where missing, and split
            (validation, test1, ...; without it everything is test). The predictions.csv of `ser test` is such a table.
            None of its speakers may be in the bank; training rows are left out.
        vectors: the utterances' pooled vectors: .npz or .safetensors with one array per utterance, named by it; or a
            table with the column utterance and a column for each dimension.
        bank: what is known of training speakers: a bank (.safetensors) that `ser test` wrote, made by the same model as
            the vectors; or a table with a row a training utterance and the columns utterance, speaker and, say,
            arousal_label. If it has a column split, only rows of train, or with a blank split, are read.
        out: table to write, a .csv.
        bank_vectors: the training utterances' vectors where `bank` is a table, as in `vectors`; the same file if None.
        scale: least and greatest label, where `bank` is a table; a file of a bank has its own. A label outside it is
            refused.
        draws: of the control with random speakers, which is scored but not written.
        seed: of these draws.
        min_utterances: labelled utterances a speaker must have to count in A-CCC.
        replace: replace `out` where it exists already.
        settings: the fields of PLDCSettings, but for `prior_utterances` and the variant: every one is written.
    """
    check_ending(Path(out))
    refuse_existing(out, replace=replace)
    pooled = read_vectors(Path(vectors))
    attributes, named, predicted = read_predictions(Path(predictions), pooled, training=False)
    of_bank = pooled if bank_vectors is None else read_vectors(Path(bank_vectors))
    options = PLDCSettings(shift_mean=False, scale_std=True, prior_utterances=PRIOR_UTTERANCES, **settings)
    if is_table(Path(bank)):
        names, listed, told = read_predictions(Path(bank), of_bank, training=True)
        training = SpeakerBank.from_utterances(told.speaker_ids, told.pooled, told.labels, names, scale)
        require_on_scale(pd.DataFrame(told.labels, listed["utterance"], names), "labels", scale, bank)
    else:
        training = SpeakerBank.load(bank)
    for kind, values in (("predictions", predicted.predictions), ("labels", predicted.labels)):
        require_on_scale(pd.DataFrame(values, named["utterance"], attributes), kind, training.scale, predictions)
    if shared := sorted({*training.speaker_ids} & {*predicted.speaker_ids}):
        what = f"{len(shared)} of its speakers are in the bank as well, with their labels: {first_few(shared)}"
        remedy = "Leave them out of one of the two, or rename them where they are other people"
        raise UserError(what, where=predictions, remedy=remedy)
    pldc = PLDC(training, attributes, options)
    validation = predicted.part((named["split"] == "validation").to_numpy())
    frames = []
    for split in sorted(set(named["split"]) - {"validation"}):
        own = (named["split"] == split).to_numpy()
        test, frame = predicted.part(own), named[own].copy()
        others = of_other_speakers(validation, test, split)
        calibrators = standard_calibrators(pldc, others, draws=draws, seed=seed)
        rows = calibration_table(test, pldc, calibrators, min_utterances=min_utterances)
        if not np.isnan(test.labels).all():
            print_scores(f"{split}: {len(frame)} utterances", rows, min_utterances)
        for column, attribute in enumerate(attributes):
            frame[f"{attribute}_label"] = test.labels[:, column]
            for row in rows:
                if not row.is_oracle and not row.is_random:
                    frame[f"{attribute}_{row.name}"] = row.predictions[0][:, column]
        frames.append(frame)
    calibrated = pd.concat(frames)
    write_rows(Path(out), list(calibrated), calibrated.itertuples(index=False, name=None))
    print(f"written: {out}")
