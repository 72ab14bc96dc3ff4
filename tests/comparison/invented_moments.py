"""Runs for a comparison: invented utterances, and the speaker_moments.csv of a test on them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ser_personal.calibration.table import CalibrationRow, speaker_moments
from ser_personal.comparison.runs import ComparedRun
from ser_personal.evaluation.run_files import write_moments
from ser_personal.scores import score

if TYPE_CHECKING:
    from pathlib import Path


class Utterances:
    """Speakers of 3, 4, 5, ... utterances, labelled for arousal, and predictions of them with a given error."""

    def __init__(self, speakers: int = 12, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.speakers = [f"s{n:02}" for n in range(speakers) for _ in range(n + 3)]
        own = np.array([int(speaker[1:]) % 3 for speaker in self.speakers])
        self.labels = (4 + 0.3 * own + rng.normal(0, 0.8, len(self.speakers)))[:, None]

    def row(self, error: float, name: str = "raw", draws: int = 1, seed: int = 0) -> CalibrationRow:
        rng = np.random.default_rng(seed)
        predictions = self.labels + rng.normal(0.2, error, (draws, *self.labels.shape))
        scores = score(predictions[0], self.labels, self.speakers, ("arousal",))
        return CalibrationRow(name, scores, name == "own_statistics", predictions)

    def moments(self, *rows: CalibrationRow):
        return speaker_moments("test1", rows, self.labels, self.speakers)

    def run(self, recipe: str, *rows: CalibrationRow, seed: int | None = None) -> ComparedRun:
        return ComparedRun(recipe, seed, self.moments(*rows), ())

    def write(self, folder: Path, *rows: CalibrationRow) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        write_moments(folder, [self.moments(*rows)])
        return folder
