"""Predictions, vectors and test runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from fault import Fault, Good, copied, cut, edited, text

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CALIBRATE = ["calibrate", "{here}/p.csv", "--vectors", "{vectors}", "--bank", "{bank}", "--out", "{here}/out.csv"]
VECTORS = [
    "calibrate",
    "{run}/predictions.csv",
    "--vectors",
    "{here}/v.npz",
    "--bank",
    "{bank}",
    "--out",
    "{here}/out.csv",
]
REPORT = ["report", "{here}/run"]


def first_prediction(cell: str) -> Callable[[Good, Path], object]:
    """Predictions of the run, the first of them replaced."""

    def make(good: Good, here: Path) -> None:
        frame = pd.read_csv(good.run / "predictions.csv", dtype=str)
        frame.loc[0, "arousal_raw"] = cell
        frame.to_csv(here / "p.csv", index=False)

    return make


def in_run(name: str, change: Callable[[Path], object]) -> Callable[[Good, Path], object]:
    """A copy of the run, one of its files changed."""
    return copied("run", "run", lambda folder: change(folder / name))


TABLES = [
    Fault("predictions of nobody", CALIBRATE, "p.csv: no column utterance", text("p.csv", "a,b\n1,2\n")),
    Fault(
        "predictions without a prediction",
        CALIBRATE,
        "no column whose name ends in _raw",
        text("p.csv", "utterance,speaker\nu,s\n"),
    ),
    Fault(
        "predictions in words",
        CALIBRATE,
        "arousal_raw of utterance .* is 'high', not a finite number",
        first_prediction("high"),
    ),
    Fault(
        "predictions of NaN",
        CALIBRATE,
        "arousal_raw of utterance .* is 'nan', not a finite number",
        first_prediction("nan"),
    ),
    Fault(
        "predictions without vectors",
        CALIBRATE,
        "utterance u has no vector",
        text("p.csv", "utterance,speaker,arousal_raw\nu,s,3\n"),
    ),
    Fault(
        "predictions of one utterance twice",
        CALIBRATE,
        "lists utterance u 2 times",
        text("p.csv", "utterance,speaker,arousal_raw\nu,s,3\nu,s,3\n"),
    ),
    Fault("vectors that aren't there", VECTORS, "v.npz: no such file"),
    Fault("vectors cut short", VECTORS, r"v.npz: isn't a whole \.npz file", copied("vectors", "v.npz", cut)),
    Fault(
        "vectors in a pickle",
        VECTORS,
        "v.npz: isn't a whole",
        lambda _good, here: np.savez(here / "v.npz", a=np.array([{}], dtype=object)),
    ),
    Fault(
        "vectors of several lengths",
        VECTORS,
        r"holds arrays of the shapes \(2,\), \(3,\)",
        lambda _good, here: np.savez(here / "v.npz", a=np.ones(2), b=np.ones(3)),
    ),
    Fault(
        "vectors of words",
        VECTORS,
        "v.npz: isn't a whole",
        lambda _good, here: np.savez(here / "v.npz", a=np.array(["x"])),
    ),
    Fault(
        "vectors of NaN",
        VECTORS,
        "the pooled vector of utterance 0 holds NaN",
        lambda good, here: np.savez(here / "v.npz", **{name: np.full(16, np.nan) for name in np.load(good.vectors)}),
    ),
    Fault(
        "vectors of another width",
        VECTORS,
        r"pooled \(18, 3\) are not",
        lambda good, here: np.savez(here / "v.npz", **{name: np.ones(3) for name in np.load(good.vectors)}),
    ),
    Fault("a run that is none", ["report", "{here}"], "isn't a test run, it has no predictions.csv"),
    Fault("a run with broken metrics", REPORT, "metrics.json: broken JSON", in_run("metrics.json", cut)),
    Fault(
        "a run with foreign metrics",
        REPORT,
        "run: isn't the whole of one test run",
        in_run("metrics.json", lambda path: path.write_text("[]")),
    ),
    Fault(
        "a run with metrics of nothing",
        REPORT,
        r"isn't the whole of one test run \(KeyError: 'attributes'\)",
        in_run("metrics.json", lambda path: path.write_text("{}")),
    ),
    Fault(
        "a run with another's splits",
        REPORT,
        "isn't the whole of one test run",
        in_run("metrics.json", edited(splits={"test9": {}})),
    ),
    Fault(
        "a run with broken predictions",
        REPORT,
        "isn't the whole of one test run .ParserError",
        in_run("predictions.csv", lambda path: path.write_text('a,"b\n1')),
    ),
    Fault(
        "a run without its columns",
        REPORT,
        "predictions.csv: no column",
        in_run("predictions.csv", lambda path: path.write_text("a,b\n1,2\n")),
    ),
    Fault("a run with half its vectors", REPORT, "speakers.safetensors", in_run("speakers.safetensors", cut)),
]
