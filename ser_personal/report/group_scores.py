"""O-CCC, A-CCC, bias and error of one group of utterances, and its gap to everyone else, with intervals.

All four are functions of sums over speakers, so a bootstrap that resamples speakers is one matrix product.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ser_personal.finetune.scores import concordance, rows_by_speaker

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ser_personal.report.bootstrap import Bootstrap, Estimate

METRICS = ("overall_ccc", "average_ccc", "bias", "mean_absolute_error")


@dataclass(frozen=True)
class GroupScores:
    """How well predictions follow the labels within a group, or how much better than elsewhere.

    Attributes:
        overall_ccc: one CCC over all utterances.
        average_ccc: mean over speakers of each one's own CCC.
        bias: mean of prediction minus label, label points.
        mean_absolute_error: label points.
        speakers: with a labelled utterance.
        counted_speakers: with enough of them to count in A-CCC.
        utterances: labelled.
    """

    overall_ccc: Estimate
    average_ccc: Estimate
    bias: Estimate
    mean_absolute_error: Estimate
    speakers: int
    counted_speakers: int
    utterances: int


@dataclass(frozen=True, eq=False)
class SpeakerSums:
    """What each speaker adds to the figures of a group.

    Attributes:
        moments: (speakers, 8): count, and the sums of p, l, p², l², pl, p - l and |p - l|, for prediction p and label l
            around `middle`, so that no digits are lost.
        ccc: (speakers,), each one's own CCC, NaN where undefined or of too few utterances.
    """

    moments: NDArray[np.float64]
    ccc: NDArray[np.float64]

    @classmethod
    def of(
        cls,
        predictions: NDArray[np.float64],
        labels: NDArray[np.float64],
        rows_of: Sequence[NDArray[np.int64]],
        min_utterances: int,
    ) -> SpeakerSums:
        """Sum up each speaker's rows; rows without a label are left out.

        Args:
            predictions: (utterances,), label points.
            labels: (utterances,), NaN where missing.
            rows_of: (speakers,), the rows of each in the group.
            min_utterances: labelled utterances a speaker must have to count in A-CCC.
        """
        middle = np.nanmean(labels)
        moments, cccs = np.zeros((len(rows_of), 8)), np.full(len(rows_of), np.nan)
        for place, all_rows in enumerate(rows_of):
            rows = all_rows[~np.isnan(labels[all_rows])]
            p, label = predictions[rows] - middle, labels[rows] - middle
            error = p - label
            summands = (np.ones(len(rows)), p, label, p**2, label**2, p * label, error, np.abs(error))
            moments[place] = [summand.sum() for summand in summands]
            if len(rows) >= min_utterances:
                cccs[place] = concordance(predictions[rows], labels[rows])
        return cls(moments, cccs)

    @property
    def speakers(self) -> int:
        """Number with a labelled utterance."""
        return int((self.moments[:, 0] > 0).sum())

    @property
    def counted_speakers(self) -> int:
        """Number that A-CCC counts."""
        return int((~np.isnan(self.ccc)).sum())

    def figures(self, weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """Compute each of `METRICS`, (draws,), for weights (draws, speakers) of the speakers."""
        with np.errstate(invalid="ignore", divide="ignore"):
            n, p, label, pp, ll, pl, error, absolute = (weights @ self.moments).T
            mean_p, mean_l = p / n, label / n
            covariance = pl / n - mean_p * mean_l
            spread = pp / n - mean_p**2 + ll / n - mean_l**2 + (mean_p - mean_l) ** 2
            defined = ~np.isnan(self.ccc)
            return {
                "overall_ccc": 2 * covariance / spread,
                "average_ccc": (weights[:, defined] @ self.ccc[defined]) / weights[:, defined].sum(axis=1),
                "bias": error / n,
                "mean_absolute_error": absolute / n,
            }


@dataclass(frozen=True)
class GroupComparison:
    """A group's scores, and the gap: the group's minus everyone else's; None where there is nobody else."""

    scores: GroupScores
    gap: GroupScores | None


def compare_groups(
    predictions: NDArray[np.float64],
    labels: NDArray[np.float64],
    speaker_ids: Sequence[str | None],
    membership: Sequence[str | None],
    groups: Sequence[str],
    *,
    min_utterances: int,
    bootstrap: Bootstrap,
) -> dict[str, GroupComparison]:
    """Score each group of utterances and compare it with all others.

    Where each speaker is in one group, groups keep their numbers of speakers in every draw; else all speakers are drawn
    together, so that a gap within speakers is measured within speakers.

    Args:
        predictions: (utterances,), label points.
        labels: (utterances,), NaN where missing.
        speaker_ids: (utterances,); unknown speakers (None) are left out, they can't be resampled.
        membership: (utterances,), the group of each, None for none.
        groups: their names, in the order wanted.
        min_utterances: labelled utterances a speaker must have within the group to count in A-CCC.
        bootstrap: makes the intervals.
    """
    member = np.array([group or "" for group in membership], dtype=object)
    placed = [id_ if group else None for id_, group in zip(speaker_ids, member, strict=True)]
    rows_of = rows_by_speaker(placed)
    groups_of = [frozenset(member[rows]) for rows in rows_of.values()]
    disjoint = all(len(groups) == 1 for groups in groups_of)
    weights = bootstrap.weights(groups_of if disjoint else [None] * len(groups_of))
    ones = np.ones((1, len(rows_of)))

    compared = {}
    for name in groups:
        inside = [rows[member[rows] == name] for rows in rows_of.values()]
        outside = [rows[member[rows] != name] for rows in rows_of.values()]
        group, rest = (SpeakerSums.of(predictions, labels, rows, min_utterances) for rows in (inside, outside))
        compared[name] = GroupComparison(
            _scores([group], group.figures(ones), group.figures(weights), bootstrap),
            None if len(groups) < 2 else _gap(group, rest, ones, weights, bootstrap),
        )
    return compared


def _gap(
    group: SpeakerSums,
    rest: SpeakerSums,
    ones: NDArray[np.float64],
    weights: NDArray[np.float64],
    bootstrap: Bootstrap,
) -> GroupScores:
    value, resampled = (
        {metric: group.figures(w)[metric] - rest.figures(w)[metric] for metric in METRICS} for w in (ones, weights)
    )
    return _scores([group, rest], value, resampled, bootstrap)


def _scores(
    sides: Sequence[SpeakerSums],
    value: dict[str, NDArray[np.float64]],
    resampled: dict[str, NDArray[np.float64]],
    bootstrap: Bootstrap,
) -> GroupScores:
    speakers, counted = min(side.speakers for side in sides), min(side.counted_speakers for side in sides)
    estimates = {
        metric: bootstrap.estimate(
            float(value[metric][0]), resampled[metric], counted if metric == "average_ccc" else speakers
        )
        for metric in METRICS
    }
    return GroupScores(
        **estimates,
        speakers=speakers,
        counted_speakers=counted,
        utterances=int(min(side.moments[:, 0].sum() for side in sides)),
    )
