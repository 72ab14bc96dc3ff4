"""Scores of groups of speakers, and how utterances are divided into groups."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from ser_personal.scores import ccc_from_sums, concordance, rows_by_speaker

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ser_personal.evaluation.run_files import ScoredSet
    from ser_personal.report.bootstrap import Bootstrap, Estimate

METRICS = {"overall_ccc": "O-CCC", "average_ccc": "A-CCC", "bias": "bias", "mean_absolute_error": "mean absolute error"}


@dataclass(frozen=True)
class GroupScores:
    """A group's scores, or its difference to everyone else."""

    overall_ccc: Estimate
    average_ccc: Estimate
    bias: Estimate  # mean of prediction minus label, label points
    mean_absolute_error: Estimate  # label points
    speakers: int  # with a labelled utterance
    counted_speakers: int  # with enough of them for A-CCC
    utterances: int  # labelled


@dataclass(frozen=True, eq=False)
class SpeakerSums:
    """Each speaker's part in the scores of a group."""

    # (speakers, 8): count, and sums of p, l, p², l², pl, p - l and |p - l|, for prediction p and label l minus the mean
    # label, which keeps their precision
    sums: NDArray[np.float64]
    ccc: NDArray[np.float64]  # (speakers,), NaN where undefined or of too few utterances

    @classmethod
    def of(
        cls,
        predictions: NDArray[np.float64],
        labels: NDArray[np.float64],
        rows_of: Sequence[NDArray[np.int64]],
        min_utterances: int,
    ) -> SpeakerSums:
        """Sum each speaker's rows of predictions and labels (utterances,); rows without a label are left out."""
        middle = np.nanmean(labels)
        sums, cccs = np.zeros((len(rows_of), 8)), np.full(len(rows_of), np.nan)
        for index, all_rows in enumerate(rows_of):
            rows = all_rows[~np.isnan(labels[all_rows])]
            p, label = predictions[rows] - middle, labels[rows] - middle
            error = p - label
            summands = (np.ones(len(rows)), p, label, p**2, label**2, p * label, error, np.abs(error))
            sums[index] = [summand.sum() for summand in summands]
            if len(rows) >= min_utterances:
                cccs[index] = concordance(predictions[rows], labels[rows])
        return cls(sums, cccs)

    def figures(self, weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """Compute each of `METRICS`, (draws,), for weights (draws, speakers) of the speakers."""
        defined = ~np.isnan(self.ccc)
        with np.errstate(invalid="ignore", divide="ignore"):
            *sums, error, absolute = (weights @ self.sums).T
            return {
                "overall_ccc": ccc_from_sums(*sums),
                "average_ccc": (weights[:, defined] @ self.ccc[defined]) / weights[:, defined].sum(axis=1),
                "bias": error / sums[0],
                "mean_absolute_error": absolute / sums[0],
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
        speaker_ids: (utterances,); unknown speakers (None) are left out, since they can't be resampled.
        membership: (utterances,), group of each, None for none.
        groups: their names, in order.
        min_utterances: labelled utterances a speaker must have within the group to count in A-CCC.
        bootstrap: makes the intervals.
    """
    member = np.array([group or "" for group in membership], dtype=object)
    rows_of = rows_by_speaker([id_ if group else None for id_, group in zip(speaker_ids, member, strict=True)])
    groups_of = [frozenset(member[rows]) for rows in rows_of.values()]
    disjoint = all(len(own) == 1 for own in groups_of)
    weights = bootstrap.weights(groups_of if disjoint else [None] * len(groups_of))

    compared = {}
    for name in groups:
        inside = [rows[member[rows] == name] for rows in rows_of.values()]
        outside = [rows[member[rows] != name] for rows in rows_of.values()]
        group, rest = (SpeakerSums.of(predictions, labels, rows, min_utterances) for rows in (inside, outside))
        of_group, of_rest = group.figures(weights), rest.figures(weights)
        gap = {metric: of_group[metric] - of_rest[metric] for metric in METRICS}
        compared[name] = GroupComparison(
            _scores([group], of_group, bootstrap), None if len(groups) < 2 else _scores([group, rest], gap, bootstrap)
        )
    return compared


def _scores(sides: Sequence[SpeakerSums], figures: dict[str, NDArray[np.float64]], bootstrap: Bootstrap) -> GroupScores:
    speakers = min(int((side.sums[:, 0] > 0).sum()) for side in sides)
    counted = min(int((~np.isnan(side.ccc)).sum()) for side in sides)
    number = {metric: counted if metric == "average_ccc" else speakers for metric in METRICS}
    return GroupScores(
        **{metric: bootstrap.estimate(figures[metric], number[metric]) for metric in METRICS},
        speakers=speakers,
        counted_speakers=counted,
        utterances=min(int(side.sums[:, 0].sum()) for side in sides),
    )


_ENOUGH_FOR_THIRDS = 30


@dataclass(frozen=True)
class Partition:
    """A division of utterances into groups."""

    name: str
    groups: tuple[str, ...]
    membership: tuple[str | None, ...]  # (utterances,), group of each, None for none
    note: str  # how to read the groups
    attribute: str | None = None  # the only one that it applies to, None for all


def by_gender(test: ScoredSet) -> Partition:
    """Divide by the gender that the corpus records."""
    recorded = tuple(test.utterances["gender"])
    note = "As the corpus records it, which need not be what the speakers would say."
    return Partition("gender", tuple(sorted(set(recorded) - {None})), recorded, note)


def by_label_region(test: ScoredSet, attribute: str, scale: tuple[float, float]) -> Partition:
    """Divide by thirds of the label scale."""
    labels = test.values(attribute, "label")
    low, high = scale
    first, second = low + (high - low) / 3, low + 2 * (high - low) / 3
    names = (
        f"low labels (below {first:g})",
        f"middle labels ({first:g} to {second:g})",
        f"high labels (above {second:g})",
    )
    region = np.where(labels < first, 0, np.where(labels <= second, 1, 2))
    return Partition(
        f"label of {attribute}",
        names,
        tuple(None if np.isnan(label) else names[which] for label, which in zip(labels, region, strict=True)),
        "Thirds of the scale. Within a third the labels hardly differ, which lowers any CCC, and predictions that keep "
        "to the middle are off in opposite directions at both ends: compare bias and error, not CCC.",
        attribute,
    )


def by_amount_of_speech(test: ScoredSet) -> Partition:
    """Divide the speakers by their number of utterances, in thirds, or halves where they are few."""
    amounts = np.array([speaker.utterances for speaker in test.speakers.values()], dtype=np.float64)
    parts = 3 if len(amounts) >= _ENOUGH_FOR_THIRDS else 2
    cuts = np.unique(np.quantile(amounts, np.arange(1, parts) / parts))
    texts = [f"{cut:.3g} utterances" for cut in cuts]
    names = [f"up to {texts[0]}", *(f"{a} to {b}" for a, b in pairwise(texts)), f"over {texts[-1]}"]
    part = np.searchsorted(cuts, amounts, side="left")
    name_of = {speaker: names[which] for speaker, which in zip(test.speakers, part, strict=True)}
    membership = tuple(None if speaker is None else name_of[speaker] for speaker in test.speaker_ids)
    groups = tuple(names[which] for which in np.unique(part))
    note = "All test speech of a speaker, which is also what calibrates them."
    return Partition("amount of speech", groups, membership, note)
