"""What a voice tells of a speaker's labels: mean and log-deviation regressed on the speaker vector (ours)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

from ser_personal.calibration.measured import measured_log_std, measured_mean
from ser_personal.calibration.ridge import LinearMap, Ridge
from ser_personal.calibration.spoken import Spoken
from ser_personal.errors import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ser_personal.speakers.bank import SpeakerBank


@dataclass(frozen=True, eq=False)
class VoiceEstimate:
    """Two regressions over the training speakers, for one attribute.

    Both are linear, so a speaker's estimate is the mean of the utterances' estimates.

    Attributes:
        mean: speaker vector -> label mean, label points.
        log_std: speaker vector -> log of the label deviation.
    """

    mean: LinearMap
    log_std: LinearMap

    @classmethod
    def fit(cls, bank: SpeakerBank, attribute: str) -> Self:
        """Regress over the bank; a speaker weighs by how well so many labels tell the moment.

        Raises:
            UserError: no training speaker has a label of the attribute.
        """
        column = bank.attributes.index(attribute)
        labelled = bank.count[:, column] > 0
        if not labelled.any():
            raise UserError(
                f"no training speaker has a label of {attribute}",
                where="speaker bank",
                remedy="Build the bank over labelled training utterances",
            )
        moments = Spoken(
            counts=bank.count[labelled, column].astype(np.float64),
            means=bank.label_mean[labelled, column : column + 1],
            variances=bank.label_std[labelled, column : column + 1] ** 2,
        )
        mean = measured_mean(moments, 0)
        log_std = measured_log_std(moments, 0, mean.noise)
        vectors = bank.vectors[labelled]
        return cls(
            mean=Ridge.fit(vectors, mean.values, mean.precisions()),
            log_std=Ridge.fit(vectors, log_std.values, log_std.precisions()),
        )

    def __call__(self, pooled: NDArray[np.float64]) -> NDArray[np.float64]:
        """Estimates (utterances, 2) of label mean and log-deviation."""
        return np.column_stack([self.mean(pooled), self.log_std(pooled)])
