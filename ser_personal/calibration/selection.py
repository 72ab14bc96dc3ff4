"""Which of several calibrations to use, chosen on validation so that it does no harm."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from ser_personal.calibration.controls import AffineMap
from ser_personal.errors import UserError
from ser_personal.finetune.scores import score

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

PRICE = 0.002
MIN_SPEAKERS = 5


def choose(
    candidates: NDArray[np.float64],
    strengths: Sequence[float],
    labels: NDArray[np.float64],
    speaker_ids: Sequence[str | None],
    price: float = PRICE,
) -> int:
    """The candidate that gains most over the first, which changes nothing; the first itself where none gains.

    Every candidate gets the labels' moments by its own affine map, so that none wins by a correction which is the same
    for everyone. A candidate's gain is that of O-CCC and A-CCC together, less the price of its strength, and it may
    lower neither of the two. A-CCC counts where it is defined: where speakers have ten labels and more.

    Args:
        candidates: (utterances, candidates), one attribute's predictions by each.
        strengths: (candidates,), how far each departs from the first.
        labels: (utterances,), NaN where missing.
        speaker_ids: (utterances,), None where unknown.
        price: of one unit of strength, in CCC.
    """
    repeated = np.broadcast_to(labels[:, None], candidates.shape)
    matched = AffineMap.fit(candidates, repeated)(candidates, (), candidates)
    names = [str(number) for number in range(candidates.shape[1])]
    scores = score(matched, repeated, speaker_ids, names)
    values = np.array([[scores[name].overall_ccc, scores[name].average_ccc] for name in names])
    gains = values - values[0]
    gains = gains[:, ~np.isnan(values[0])]
    best, best_gain = 0, 0.0
    for number, (gain, strength) in enumerate(zip(gains, strengths, strict=True)):
        total = math.fsum(gain) - price * strength
        if total > best_gain and (gain >= 0).all():
            best, best_gain = number, total
    return best


def labelled_speakers(speaker_ids: Sequence[str | None], labels: NDArray[np.float64]) -> list[set[str]]:
    """The known speakers with a label of each attribute; labels are (utterances, attributes), NaN where missing."""
    return [
        {
            speaker
            for speaker, label in zip(speaker_ids, column, strict=True)
            if speaker is not None and not math.isnan(label)
        }
        for column in labels.T
    ]


def check_labels(speaker_ids: Sequence[str | None], labels: NDArray[np.float64], attributes: Sequence[str]) -> None:
    """Refuse labels that nothing can be chosen by.

    Raises:
        UserError: the shape doesn't match, a label is infinite, or an attribute has fewer than `MIN_SPEAKERS` speakers.
    """
    shape = (len(speaker_ids), len(attributes))
    if labels.shape != shape or np.isinf(labels).any():
        raise UserError(
            f"labels {labels.shape} are not finite numbers or NaN, {shape}",
            where="calibration",
            remedy="Give one row an utterance and one column an attribute, NaN where a label is missing",
        )
    for attribute, found in zip(attributes, labelled_speakers(speaker_ids, labels), strict=True):
        if len(found) < MIN_SPEAKERS:
            raise UserError(
                f"{len(found)} validation speakers have labels of {attribute}, and {MIN_SPEAKERS} is the least",
                where="calibration",
                remedy="Fit on more validation speakers; with fewer, one affine map for everyone (AffineMap) will do",
            )
