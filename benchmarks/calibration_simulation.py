"""What each calibrator gains or loses against one affine map for everyone, on simulated speakers.

    python benchmarks/calibration_simulation.py

Training, validation and test speakers whose voice vectors tell the mean and log-deviation of their labels with a known
strength (a correlation), and a model that follows the labels better between speakers than within them, errs on each
speaker by a constant and a gain, and has the labels' moments over the training set, as training by CCC drives it to.

At strength 0 a calibrator can only lose; how little is what "does no harm" means. Columns are the differences of O-CCC
and A-CCC from those of the affine map, mean and standard error over the seeds; the map's own row holds its scores, and
own_statistics is the oracle.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from record import record
from rich.console import Console
from rich.table import Table

from ser_personal.calibration.pldc import PLDC, PLDCSettings
from ser_personal.calibration.posterior import PosteriorCalibrator
from ser_personal.calibration.table import PredictedSet, calibration_table, standard_calibrators
from ser_personal.recognition.causal import CausalPosterior, calibrate_causally
from ser_personal.speakers.bank import SpeakerBank

if TYPE_CHECKING:
    from numpy.typing import NDArray

SPEAKERS = {"train": 500, "validation": 41, "test": 60}
STRENGTHS = (0.0, 0.3, 0.6, 0.9)
FEWEST, MOST = 5, 200
WIDTH = 16
LABEL_MEAN, LABEL_STD = 4.0, 0.8
MEAN_SPREAD, LOG_STD_SPREAD = 0.45, 0.25
SLOPE_BETWEEN, SLOPE_WITHIN = 0.75, 0.55
BIAS, LOG_GAIN, NOISE = 0.15, 0.2, 0.45
ATTRIBUTES = ("arousal",)


def main() -> None:
    """Simulate, print the table and record it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20, help="how many")
    parser.add_argument("--first_seed", type=int, default=0, help="the seeds follow it")
    arguments = parser.parse_args()
    started = time.perf_counter()
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    scores = {strength: [scores_of(strength, seed) for seed in seeds] for strength in STRENGTHS}
    gains = {strength: gains_over_affine(runs) for strength, runs in scores.items()}
    show(gains, len(seeds))
    seconds = time.perf_counter() - started
    print(f"{seconds:.0f} s")
    record(summary(gains, seeds, seconds), packages=("numpy",))


def scores_of(strength: float, seed: int) -> dict[str, NDArray[np.float64]]:
    """Return row name -> (O-CCC, A-CCC) on the test speakers."""
    sets = simulate(strength, np.random.default_rng([seed, round(100 * strength)]))
    train = sets["train"]
    bank = SpeakerBank.from_utterances(train.speaker_ids, train.pooled, train.labels, ATTRIBUTES)
    pldc = PLDC(bank, ATTRIBUTES)
    calibrators = standard_calibrators(pldc, sets["validation"])
    validation = sets["validation"]
    posterior = PosteriorCalibrator(bank).fit(
        validation.predictions, validation.speaker_ids, validation.pooled, validation.labels
    )
    causal = CausalPosterior(posterior.fitted, ATTRIBUTES)
    calibrators["posterior_causal"] = lambda *_: calibrate_causally(causal, sets["test"])[0]
    table = calibration_table(sets["test"], PLDC(bank, ATTRIBUTES, PLDCSettings(shift_mean=True)), calibrators)
    arousal = {row.name: row.scores["arousal"] for row in table}
    return {name: np.array([scores.overall_ccc, scores.average_ccc]) for name, scores in arousal.items()}


def simulate(strength: float, rng: np.random.Generator) -> dict[str, PredictedSet]:
    """Make the three sets; both links go along fixed directions of the voice, and each set has other speakers."""
    directions = rng.normal(size=(WIDTH, 2))
    directions /= np.linalg.norm(directions, axis=0)
    sets = {name: simulate_set(name, number, strength, directions, rng) for name, number in SPEAKERS.items()}
    train = sets["train"]
    slope = train.labels.std() / train.predictions.std()
    intercept = train.labels.mean() - slope * train.predictions.mean()
    return {name: replace(one, predictions=slope * one.predictions + intercept) for name, one in sets.items()}


def simulate_set(
    name: str, num_speakers: int, strength: float, directions: NDArray[np.float64], rng: np.random.Generator
) -> PredictedSet:
    """Make one set, before its predictions have the labels' moments."""
    voices = rng.normal(size=(num_speakers, WIDTH))
    unrelated = rng.normal(size=(num_speakers, 2))
    traits = strength * voices @ directions + np.sqrt(1 - strength**2) * unrelated
    means = MEAN_SPREAD * traits[:, 0]
    stds = LABEL_STD * np.exp(LOG_STD_SPREAD * traits[:, 1])
    biases, gains = BIAS * rng.normal(size=num_speakers), np.exp(LOG_GAIN * rng.normal(size=num_speakers))
    speaker = np.repeat(np.arange(num_speakers), rng.integers(FEWEST, MOST + 1, num_speakers))
    within = stds[speaker] * rng.normal(size=len(speaker))
    noise = NOISE * rng.normal(size=len(speaker))
    predictions = (SLOPE_BETWEEN * means + biases)[speaker] + SLOPE_WITHIN * gains[speaker] * within + noise
    return PredictedSet(
        predictions=LABEL_MEAN + predictions[:, None],
        speaker_ids=tuple(f"{name} {number:03}" for number in speaker),
        pooled=voices[speaker] + rng.normal(size=(len(speaker), WIDTH)),
        labels=LABEL_MEAN + (means[speaker] + within)[:, None],
    )


def gains_over_affine(runs: list[dict[str, NDArray[np.float64]]]) -> dict[str, NDArray[np.float64]]:
    """Return row name -> (seeds, 2) differences from the affine map; under `affine` its own scores."""
    return {
        name: np.array([run[name] - (run["affine"] if name != "affine" else 0) for run in runs]) for name in runs[0]
    }


def show(gains: dict[float, dict[str, NDArray[np.float64]]], num_seeds: int) -> None:
    """Print strength x calibrator."""
    table = Table(title=f"against the affine map, {num_seeds} seeds")
    for heading in ("strength", "calibrator", "O-CCC", "A-CCC"):
        table.add_column(heading, justify="left" if heading == "calibrator" else "right")
    for strength, of_calibrator in gains.items():
        for name in ["affine", *(name for name in of_calibrator if name != "affine")]:
            table.add_row(f"{strength:.1f}", name, *cells(of_calibrator[name], signed=name != "affine"))
        table.add_section()
    Console().print(table)


def cells(values: NDArray[np.float64], *, signed: bool) -> list[str]:
    """Format mean and standard error over seeds of (seeds, 2) values."""
    errors = values.std(axis=0, ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.full(2, np.nan)
    return [f"{m:{'+' if signed else ''}.4f} ± {e:.4f}" for m, e in zip(values.mean(axis=0), errors, strict=True)]


def summary(gains: dict[float, dict[str, NDArray[np.float64]]], seeds: range, seconds: float) -> str:
    """Sum up what is recorded: the differences of the rows that matter, strength by strength."""
    rows = ("posterior", "posterior_causal", "sigma", "mu", "own_statistics")
    parts = []
    for name in rows:
        means = np.array([of_calibrator[name].mean(axis=0) for of_calibrator in gains.values()])
        overall, average = (", ".join(f"{value:+.3f}" for value in column) for column in means.T)
        parts.append(f"{name} A {average}, O {overall}")
    strengths = ", ".join(f"{strength:g}" for strength in gains)
    return (
        f"against the affine map at strengths {strengths}: {'; '.join(parts)}; "
        f"seeds {seeds.start} to {seeds.stop - 1}, {seconds:.0f} s"
    )


if __name__ == "__main__":
    main()
