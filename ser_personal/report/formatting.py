"""Numbers and names in the form in which the report shows them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

from ser_personal.calibration.table import decimal

if TYPE_CHECKING:
    from ser_personal.evaluation.run_files import RunFiles
    from ser_personal.report.bootstrap import Estimate


class Row(NamedTuple):
    """A row of the score table: its short name, its kind, and what it means."""

    short: str
    kind: Literal["method", "control", "baseline", "oracle"]
    meaning: str


ROWS = {
    "raw": Row("raw", "method", "what the model predicts, uncalibrated"),
    "mu": Row("PLDC: mean", "method", "predictions get the mean of the most similar training speakers' labels"),
    "sigma": Row("PLDC: deviation", "method", "predictions get the standard deviation of those labels"),
    "both": Row("PLDC: both", "method", "PLDC of mean and standard deviation: the paper's full equation"),
    "posterior": Row(
        "posterior",
        "method",
        "ours: each speaker's label moments, estimated from speaker vectors and predictions by a regression "
        "fitted on validation speakers",
    ),
    "affine": Row("one map for all", "control", "one affine map for all speakers, fitted on validation speakers"),
    "population": Row("all speakers", "control", "PLDC towards all training speakers; similarity must do better"),
    "random_speakers": Row("random speakers", "control", "PLDC towards random training speakers, mean over draws"),
    "own_statistics": Row(
        "own labels (oracle)", "oracle", "never a result: PLDC towards the moments of the test labels"
    ),
    "ridge": Row("ridge regression", "baseline", "on MFCC functionals, fitted on the training split"),
}


def row_text(name: str) -> Row:
    """What the report says of a row; one that `ROWS` lacks, such as a caller's own method, has its name alone."""
    return ROWS.get(name, Row(name, "method", ""))


def settings(run: RunFiles) -> str:
    """How predictions.csv was calibrated."""
    pldc = run.pldc
    extras = [name for name, used in (("centred vectors", pldc.center), ("clipped", pldc.clip)) if used]
    return ", ".join([f"{run.chosen}, k = {pldc.k}, {pldc.statistics} statistics", *extras])


def signed(value: float) -> str:
    """A difference with its sign: +.021."""
    text = decimal(value)
    return f"+{text}" if value > 0 and text != ".000" else text


def interval(estimate: Estimate) -> str:
    """A value with its interval, or the reason why it has none: .683 (.532 to .815)."""
    return f"{decimal(estimate.value)} ({estimate.refused or f'{decimal(estimate.low)} to {decimal(estimate.high)}'})"


def signed_interval(estimate: Estimate) -> str:
    """A difference with its interval, signed, or the reason why it has none."""
    return f"{signed(estimate.value)} ({estimate.refused or f'{signed(estimate.low)} to {signed(estimate.high)}'})"


def duration(seconds: float) -> str:
    """Seconds in a readable unit: 45 s, 12 min, 3.4 h."""
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if seconds < 7200 else f"{seconds / 3600:.3g} h"


def with_interval(estimate: Estimate) -> str:
    """A value with its interval if it has one."""
    return interval(estimate) if estimate.refused is None else decimal(estimate.value)


def gain(estimate: Estimate | None) -> str:
    """A difference to the baseline with its interval if it has one; None is the baseline itself."""
    if estimate is None:
        return "baseline"
    return signed_interval(estimate) if estimate.refused is None else signed(estimate.value)
