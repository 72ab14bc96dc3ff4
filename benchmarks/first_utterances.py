"""What calibration is worth for a new speaker's very first utterances, and what groups in the bank cost.

    python benchmarks/first_utterances.py [--folds DIR]

Every utterance is calibrated as the recogniser does, by what its speaker has said up to and including it: PLDC without
a prior (`plain`), PLDC as it is (`prior`), the posterior, and PLDC by a bank of groups of five training speakers. On
the simulation of calibration_simulation.py (voices that tell labels with a correlation of .6), or on the folds that
causal_calibration.py left in DIR, each speaker in ten random orders of time.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from calibration_simulation import simulate
from fold_predictions import read_fold
from record import record
from rich.console import Console
from rich.table import Table

from ser_personal.calibration.pldc import PLDCSettings
from ser_personal.calibration.posterior import PosteriorCalibrator
from ser_personal.recognition.causal import CausalPLDC, CausalPosterior, calibrate_causally
from ser_personal.scores import concordance, rows_by_speaker
from ser_personal.sharing.anonymise import grouped_bank
from ser_personal.speakers.bank import SpeakerBank
from ser_personal.types import ATTRIBUTES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from ser_personal.calibration.table import PredictedSet
    from ser_personal.recognition.causal import CausalCalibrator

    Fold = dict[str, PredictedSet]

ORDERS = 10
EDGES = (0, 1, 2, 3, 5, 10, 20, 40, 60)
GROUP = 5
STRENGTH = 0.6
SWITCHES = {"sigma": (False, True), "both": (True, True)}


def main() -> None:
    """Calibrate, print the table and record it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folds", type=Path, help="folder of causal_calibration.py; the simulation without it")
    parser.add_argument("--seeds", type=int, default=5, help="of the simulation")
    arguments = parser.parse_args()
    folds = simulated(arguments.seeds) if arguments.folds is None else recorded(arguments.folds)
    parts: dict[str, list[NDArray[np.float64]]] = {}
    for fold in folds:
        for name, speakers in in_turn(fold).items():
            parts.setdefault(name, []).extend(speakers)
    labels = parts.pop("labels")
    table = Table("", *(f"{first + 1} to {last}" for first, last in pairwise(EDGES)), title="O-CCC and error")
    lines = []
    for name, speakers in parts.items():
        cells = [cell(speakers, labels, first, last) for first, last in pairwise(EDGES)]
        table.add_row(name, *cells)
        lines.append(f"{name} {', '.join(one.split()[0] for one in cells)}")
    Console(width=140).print(table)
    headings = ", ".join(f"{first + 1} to {last}" for first, last in pairwise(EDGES))
    record(f"O-CCC of utterances {headings} of each speaker: {'; '.join(lines)}", ("numpy",))


def simulated(seeds: int) -> Iterator[Fold]:
    """Sets of invented speakers."""
    for seed in range(seeds):
        yield simulate(STRENGTH, np.random.default_rng([seed, round(100 * STRENGTH)]))


def recorded(folder: Path) -> Iterator[Fold]:
    """The folds of real speakers."""
    for path in sorted(folder.glob("fold-*")):
        fold = read_fold(path)
        yield {"train": fold["train"], "validation": fold["validation"], "test": fold["test1"]}


def in_turn(fold: Fold) -> dict[str, list[NDArray[np.float64]]]:
    """Calibrator, and `labels` -> an array (utterances, attributes) a speaker and order of time."""
    train, validation, test = fold["train"], fold["validation"], fold["test"]
    attributes = ATTRIBUTES[: test.labels.shape[1]]
    bank = SpeakerBank.from_utterances(train.speaker_ids, train.pooled, train.labels, attributes)
    fitted = PosteriorCalibrator(bank).fit(
        validation.predictions, validation.speaker_ids, validation.pooled, validation.labels
    )
    groups = grouped_bank(bank, GROUP, PLDCSettings()) if len(bank.speaker_ids) >= GROUP else bank
    calibrators: dict[str, CausalCalibrator] = {"posterior": CausalPosterior(fitted.fitted, attributes)}
    for name, (shift_mean, scale_std) in SWITCHES.items():
        settings = PLDCSettings(shift_mean=shift_mean, scale_std=scale_std)
        calibrators[f"{name}, plain"] = CausalPLDC(bank, attributes, replace(settings, prior_utterances=0))
        calibrators[f"{name}, prior"] = CausalPLDC(bank, attributes, settings)
        grouped = replace(settings, k=max(1, settings.k // GROUP))
        calibrators[f"{name}, prior, groups"] = CausalPLDC(groups, attributes, grouped)
    rng = np.random.default_rng(0)
    sequences: dict[str, list[NDArray[np.float64]]] = {}
    for _ in range(ORDERS):
        order = rng.permutation(len(test.speaker_ids))
        shuffled = replace(
            test,
            predictions=test.predictions[order],
            pooled=test.pooled[order],
            labels=test.labels[order],
            speaker_ids=tuple(test.speaker_ids[row] for row in order),
        )
        by_name = {"labels": shuffled.labels, "raw": shuffled.predictions}
        by_name |= {name: calibrate_causally(calibrator, shuffled)[0] for name, calibrator in calibrators.items()}
        for rows in rows_by_speaker(shuffled.speaker_ids).values():
            for name, values in by_name.items():
                sequences.setdefault(name, []).append(values[rows])
    return sequences


def cell(values: list[NDArray[np.float64]], labels: list[NDArray[np.float64]], first: int, last: int) -> str:
    """O-CCC and mean absolute error of the utterances at some places in each speaker's order, over the attributes."""
    predicted, true = (np.concatenate([one[first:last] for one in several]) for several in (values, labels))
    overall = np.mean([concordance(predicted[:, column], true[:, column]) for column in range(true.shape[1])])
    return f"{overall:.3f} {np.abs(predicted - true).mean():.2f}"


if __name__ == "__main__":
    main()
