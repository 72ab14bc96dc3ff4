"""A speaker bank of groups instead of speakers, so that no bundle has to carry one person's vector."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ser_personal.calibration.equation import Statistics, label_statistics
from ser_personal.calibration.neighbours import normalised
from ser_personal.errors import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ser_personal.speakers.bank import SpeakerBank


def grouped_bank(bank: SpeakerBank, least: int, statistics: Statistics) -> SpeakerBank:
    """The bank of groups of similar speakers, by microaggregation (Domingo-Ferrer and Mateo-Sanz, 2002).

    A group's vector is its speakers' mean vector, its label statistics are what PLDC makes of its speakers as
    neighbours, and its count is all of their labels. An attribute that fewer than `least` of them have labels of counts
    as unlabelled. What is left is less than single speakers, and still made of biometric data: groups don't make anyone
    anonymous who is known by other means.

    Args:
        bank: of single speakers.
        least: speakers in each group, at least.
        statistics: of PLDC.

    Raises:
        UserError: there are fewer speakers than that.
    """
    if len(bank.speaker_ids) < least:
        raise UserError(
            f"holds {len(bank.speaker_ids)} speakers",
            where="speaker bank",
            remedy=f"Groups of {least} need as many: ask for smaller ones",
        )
    groups = similar_speakers(normalised(bank.vectors), least)
    columns = list(range(len(bank.attributes)))
    labelled = np.array([(bank.count[rows] > 0).sum(axis=0) >= least for rows in groups])
    moments = [label_statistics(bank, rows, columns, statistics) for rows in groups]
    return replace(
        bank,
        speaker_ids=tuple(f"group-{number:0{len(str(len(groups)))}}" for number in range(1, len(groups) + 1)),
        vectors=np.array([bank.vectors[rows].mean(axis=0) for rows in groups]),
        count=np.where(labelled, [bank.count[rows].sum(axis=0) for rows in groups], 0),
        label_mean=np.where(labelled, [mean for mean, _ in moments], np.nan),
        label_std=np.where(labelled, [std for _, std in moments], np.nan),
        fingerprint="",
    )


def similar_speakers(vectors: NDArray[np.float64], least: int) -> list[NDArray[np.int64]]:
    """Divide rows (speakers, dim) into groups of `least` to 2 `least` - 1, near ones together (MDAV).

    Whoever is farthest from the middle of those left makes a group with the nearest to them, and so does who is
    farthest from that one, until too few are left for two groups more.
    """
    left = np.arange(len(vectors))
    groups = []

    def take(center: NDArray[np.float64]) -> None:
        nonlocal left
        order = np.argsort(_distances(vectors[left], center), kind="stable")
        groups.append(np.sort(left[order[:least]]))
        left = np.sort(left[order[least:]])

    while len(left) >= 3 * least:
        far = vectors[left[np.argmax(_distances(vectors[left], vectors[left].mean(axis=0)))]]
        take(far)
        take(vectors[left[np.argmax(_distances(vectors[left], far))]])
    if len(left) >= 2 * least:
        take(vectors[left[np.argmax(_distances(vectors[left], vectors[left].mean(axis=0)))]])
    return [*groups, left]


def _distances(vectors: NDArray[np.float64], center: NDArray[np.float64]) -> NDArray[np.float64]:
    distances: NDArray[np.float64] = ((vectors - center) ** 2).sum(axis=1)
    return distances
