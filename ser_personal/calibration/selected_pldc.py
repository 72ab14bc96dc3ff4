"""PLDC with k and its switches chosen on validation, or none at all (ours)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, Self, get_args

import numpy as np

from ser_personal.calibration.controls import PLDC, AffineMap
from ser_personal.calibration.pldc import Statistics, check_inputs
from ser_personal.calibration.posterior import PRICE, check_labels, choose

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

NEIGHBOURS = (5, 15, 50, 150)
MOMENTS = ((True, False), (False, True), (True, True))


@dataclass(frozen=True, eq=False)
class SelectedPLDC:
    """The variant of PLDC that gains most on validation, attribute by attribute, and its map for everyone.

    Every variant's predictions get the labels' moments over validation first, by one affine map for everyone. None is
    chosen where none gains more than the price of each moment that it replaces; then the map alone is left.

    Attributes:
        chosen: (attributes,), each a PLDC of that attribute, or None.
        affine: over the chosen variants' predictions.
    """

    chosen: tuple[PLDC | None, ...]
    affine: AffineMap

    @classmethod
    def fit(
        cls,
        pldc: PLDC,
        predictions: NDArray[np.float64],
        speaker_ids: Sequence[str | None],
        pooled: NDArray[np.float64],
        labels: NDArray[np.float64],
        *,
        price: float = PRICE,
    ) -> Self:
        """Choose on validation speakers.

        Args:
            pldc: bank, attributes and whether to clip.
            predictions: (utterances, attributes), label points.
            speaker_ids: (utterances,), None where unknown.
            pooled: (utterances, dim).
            labels: (utterances, attributes), label points, NaN where missing.
            price: of each moment replaced, in CCC.

        Raises:
            UserError: as by `calibrate`; labels whose shape doesn't match, or fewer than five labelled speakers.
        """
        check_inputs(predictions, speaker_ids, pooled, pldc.bank, pldc.attributes)
        check_labels(speaker_ids, labels, pldc.attributes)
        variants = variants_of(pldc)
        candidates = np.stack([predictions, *(variant(predictions, speaker_ids, pooled) for variant in variants)])
        strengths = [0, *(variant.shift_mean + variant.scale_std for variant in variants)]
        best = [
            choose(candidates[:, :, column].T, strengths, labels[:, column], speaker_ids, price)
            for column in range(len(pldc.attributes))
        ]
        chosen = tuple(
            replace(variants[number - 1], attributes=(attribute,)) if number else None
            for number, attribute in zip(best, pldc.attributes, strict=True)
        )
        corrected = np.column_stack([candidates[number, :, column] for column, number in enumerate(best)])
        return cls(chosen, AffineMap.fit(corrected, labels))

    def __call__(
        self, predictions: NDArray[np.float64], speaker_ids: Sequence[str | None], pooled: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Calibrated predictions, (utterances, attributes)."""
        corrected = predictions.copy()
        for column, pldc in enumerate(self.chosen):
            if pldc is not None:
                corrected[:, [column]] = pldc(predictions[:, [column]], speaker_ids, pooled)
        return self.affine(corrected, speaker_ids, pooled)


def variants_of(pldc: PLDC) -> list[PLDC]:
    """All that is chosen from, for each k, mean or deviation or both, either statistics, centred or not."""
    return [
        replace(pldc, k=k, shift_mean=shift_mean, scale_std=scale_std, statistics=statistics, center=center)
        for k, (shift_mean, scale_std), statistics, center in product(
            NEIGHBOURS, MOMENTS, get_args(Statistics), (False, True)
        )
    ]
