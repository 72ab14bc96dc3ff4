"""Conformal intervals that cover the labels of a new speaker."""

import json
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import ceil, inf, isinf
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ser_personal.calibration.table import PredictedSet
from ser_personal.files import write_json
from ser_personal.scores import Values, rows_by_speaker
from ser_personal.speakers.bank import as_float64

BINS = (0, 1, 2, 5, 10, 20, 40)
COVERAGE = 0.9
QUANTILES = (0.0, 0.1, 0.5, 0.9, 1.0)


@dataclass(frozen=True)
class HalfWidths:
    """Half-widths of one attribute's intervals, by bins of the number of utterances that a calibration is based on."""

    from_utterances: tuple[int, ...]  # the least number in each bin, ascending; the last bin is open
    half_width: tuple[float, ...]  # label points; infinite where too few speakers were measured
    speakers: tuple[int, ...]  # how many were measured


@dataclass(frozen=True)
class ConformalTable:
    r"""Half-widths of intervals that cover the label of a new speaker's utterance with a given probability.

    Hierarchical conformal prediction (Lee, Barber and Willett, 2023, arXiv 2306.06342; Dunn, Wasserman and Ramdas,
    2023): speakers, not utterances, are exchangeable, so every speaker weighs the same. With :math:`K` speakers,
    :math:`N_s` utterances of speaker :math:`s` and :math:`r_{si}` their absolute errors, the half-width is the
    `coverage` quantile of

    .. math::

        \sum_{s=1}^{K} \frac{1}{(K + 1) N_s} \sum_{i=1}^{N_s} \delta_{r_{si}} + \frac{1}{K + 1} \delta_{\infty}

    where the last term stands for the new speaker. A random utterance of a new speaker then falls inside with at
    least that probability, over speakers: one speaker's own share may be lower. Measured on validation speakers it
    holds approximately: they chose the checkpoint, so their errors are a little smaller. Below
    `coverage / (1 - coverage)` speakers (9 for 90 %) the quantile is infinite, and the interval is the whole scale.

    Attributes:
        coverage: target probability.
        attributes: attribute -> half-widths.
    """

    coverage: float
    attributes: dict[str, HalfWidths]

    @classmethod
    def fit(
        cls,
        predictions: ArrayLike,
        labels: ArrayLike,
        speaker_ids: Sequence[str | None],
        attributes: Sequence[str],
        *,
        utterances: Sequence[int] | NDArray[np.int64] | None = None,
        coverage: float = COVERAGE,
    ) -> Self:
        """Measure errors on speakers whom the model wasn't trained on and the bank doesn't hold.

        Predictions, calibrated as at test time, and labels, NaN where missing, are (utterances, attributes), in label
        points; unknown speakers (None) are left out. `utterances` (utterances,) says how many each calibration is based
        on, 0 for raw; one bin for all if None. A bin with too few speakers for a finite half-width joins the one below.
        """
        counts = np.zeros(len(speaker_ids), dtype=np.int64) if utterances is None else np.asarray(utterances)
        edges = (0,) if utterances is None else BINS
        speakers = np.array(["" if speaker is None else f"={speaker}" for speaker in speaker_ids])
        errors = np.abs(as_float64(predictions) - as_float64(labels))
        fitted = {}
        for column, attribute in enumerate(attributes):
            kept: list[tuple[int, float, int]] = []
            left = (speakers != "") & ~np.isnan(errors[:, column])
            for edge in reversed(edges):
                rows = left & (counts >= edge)
                width = conformal_quantile(errors[rows, column], speakers[rows], coverage)
                # raw predictions (0) and those of a first utterance (1) have no bin of their kind below them to join
                if edge <= 1 or not isinf(width):
                    kept.insert(0, (edge, width, len(np.unique(speakers[rows]))))
                    left &= ~rows
            fitted[attribute] = HalfWidths(*zip(*kept, strict=True))
        return cls(coverage, fitted)

    def half_width(self, attribute: str, utterances: int) -> float:
        """Half-width in label points, for a calibration based on that many utterances; infinite below all bins."""
        widths = self.attributes[attribute]
        row = bisect_right(widths.from_utterances, utterances) - 1
        return widths.half_width[row] if row >= 0 else inf

    def save(self, path: Path) -> None:
        """Write the table as JSON; an infinite half-width is null."""
        attributes = {
            name: asdict(widths) | {"half_width": [None if isinf(width) else width for width in widths.half_width]}
            for name, widths in self.attributes.items()
        }
        write_json(path, {"coverage": self.coverage, "attributes": attributes})

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a table that `save` wrote."""
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        attributes = {}
        for name, widths in content["attributes"].items():
            half_width = tuple(inf if width is None else width for width in widths["half_width"])
            attributes[name] = HalfWidths(tuple(widths["from_utterances"]), half_width, tuple(widths["speakers"]))
        return cls(content["coverage"], attributes)


def speakers_needed(coverage: float) -> int:
    """The least number of speakers for a finite half-width."""
    return ceil(coverage / (1 - coverage) - 1e-9)


def conformal_quantile(errors: Values, speakers: NDArray[Any], coverage: float) -> float:
    """The half-width that `ConformalTable` defines, of errors (n,) by speakers (n,); infinite for too few speakers."""
    _, speaker, utterances = np.unique(speakers, return_inverse=True, return_counts=True)
    order = np.argsort(errors, kind="stable")
    # weight at or below each error, where each speaker weighs 1
    cumulative = (1.0 / utterances[speaker])[order].cumsum()
    # rounding of the sum must not ask for a greater error than the definition does
    index = np.searchsorted(cumulative, coverage * (len(utterances) + 1) - 1e-9)
    return float(errors[order][index]) if index < len(errors) else inf


def intervals_as_json(
    validation: PredictedSet, test: PredictedSet, attributes: tuple[str, ...], scale: tuple[float, float]
) -> dict[str, Any]:
    """Fit intervals to the errors of one set, and count how often they cover the labels of another.

    Both sets are calibrated in the same way, the first of speakers who are neither in the second nor in the bank.

    Returns:
        The coverage, the number of speakers needed and available; attribute -> half-width (null where speakers were too
        few), mean width within the scale, and mean and quantiles of the test speakers' own shares, null without labels.
    """
    table = ConformalTable.fit(validation.predictions, validation.labels, validation.speaker_ids, attributes)
    rows_of = rows_by_speaker(test.speaker_ids)
    covered = {}
    for attribute, predictions, labels in zip(attributes, test.predictions.T, test.labels.T, strict=True):
        width = table.half_width(attribute, 0)
        low, high = (predictions - width).clip(*scale), (predictions + width).clip(*scale)
        inside = np.abs(predictions - labels) <= width
        labelled = (rows[~np.isnan(labels[rows])] for rows in rows_of.values())
        shares = np.array([inside[rows].mean() for rows in labelled if len(rows)])
        covered[attribute] = {
            "half_width": None if isinf(width) else width,
            "mean_width": float((high - low).mean()),
            "mean": float(shares.mean()) if len(shares) else None,
            "of_speakers": np.quantile(shares, QUANTILES).tolist() if len(shares) else None,
        }
    return {
        "coverage": COVERAGE,
        "speakers_needed": speakers_needed(COVERAGE),
        "validation_speakers": len(set(validation.speaker_ids) - {None}),
        "attributes": covered,
    }
