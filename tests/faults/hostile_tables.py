"""Predictions, vectors and test runs."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from fault import Make, copied, cut, faults, put, text

CALIBRATE = ["calibrate", "{here}/p.csv", "--vectors", "{vectors}", "--bank", "{bank}", "--out", "{here}/out.csv"]
VECTORS = ["calibrate", "{run}/predictions.csv", "--vectors", "{here}/v.npz", "--bank", "{bank}", "--out", "out.csv"]
REPORT = ["report", "{here}/run"]


def all_of(vector: np.ndarray) -> Make:
    return lambda good, here: np.savez(here / "v.npz", **dict.fromkeys(np.load(good.vectors), vector))


def in_run(name: str, change: Callable[[Path], object]) -> Make:
    """A copy of the run, one of its files changed."""
    return copied("run", "run", lambda folder: change(folder / name))


PREDICTED = text("p.csv", "utterance,speaker,arousal_raw\nMSP-PODCAST_0010_0001,s,high\n")
OF_CALIBRATE = [
    ("predictions of nobody", "p.csv: no column utterance", text("p.csv", "a,b\n1,2\n")),
    ("predictions without any", "no column whose name ends in _raw", text("p.csv", "utterance,speaker\nu,s\n")),
    ("predictions in words", "utterance MSP-PODCAST_0010_0001: arousal_raw is 'high', not a finite number", PREDICTED),
    ("a prediction of no vector", "utterance u has no vector", text("p.csv", "utterance,speaker,arousal_raw\nu,s,3\n")),
]
OF_VECTORS = [
    ("vectors that aren't there", "v.npz: no such file"),
    ("vectors cut short", r"v.npz: isn't a complete \.npz file", copied("vectors", "v.npz", cut)),
    ("vectors of another width", r"pooled \(18, 3\) are not", all_of(np.ones(3))),
]
OF_REPORT = [
    ("a run with broken metrics", "metrics.json: broken JSON", in_run("metrics.json", cut)),
    ("a run with broken predictions", "predictions.csv: can't be read", in_run("predictions.csv", put('a,"b\n1'))),
    ("a run without its columns", "predictions.csv: no column", in_run("predictions.csv", put("a,b\n1,2\n"))),
    ("a run with half its vectors", "run: isn't one complete test run", in_run("speakers.safetensors", cut)),
]
TABLES = faults(CALIBRATE, OF_CALIBRATE) + faults(VECTORS, OF_VECTORS) + faults(REPORT, OF_REPORT)
