"""Causal calibration: each utterance by what its speaker has said so far, itself included."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ser_personal.calibration.neighbours import normalised
from ser_personal.calibration.pldc import Statistics, label_statistics, take_on
from ser_personal.errors import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ser_personal.recognition.profiles import SpeakerProfile
    from ser_personal.speakers.bank import SpeakerBank


class CausalCalibrator(Protocol):
    """Calibrates one utterance."""

    def __call__(self, prediction: NDArray[np.float64], profile: SpeakerProfile) -> NDArray[np.float64]:
        """The calibrated prediction, (attributes,).

        Args:
            prediction: (attributes,), label points.
            profile: of all that the speaker has said, this utterance included.
        """


@dataclass(frozen=True)
class PLDCSettings:
    """The options of `calibrate`, which that function explains.

    Args:
        k: training speakers, the nearest by cosine.
        shift_mean: replace the mean.
        scale_std: replace the deviation.
        statistics: average the neighbours' statistics, or pool their labels.
        center: subtract the bank's mean vector before taking cosines.
        clip: keep calibrated predictions within the label scale.
    """

    k: int = 15
    shift_mean: bool = False
    scale_std: bool = True
    statistics: Statistics = "average"
    center: bool = False
    clip: bool = False

    def __post_init__(self) -> None:
        if self.k < 1:
            raise UserError(f"k is {self.k}", where="PLDC", remedy="Ask for at least one neighbour")

    def as_json(self) -> dict[str, Any]:
        """The settings by name."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class CausalPLDC:
    """PLDC by running sums: the last utterance comes out as `calibrate` over all of the speaker's so far has it.

    Attributes:
        bank: the training speakers.
        attributes: names of the predictions' columns, each one of the bank's.
        settings: of `calibrate`.
    """

    bank: SpeakerBank
    attributes: tuple[str, ...]
    settings: PLDCSettings = PLDCSettings()

    def __call__(self, prediction: NDArray[np.float64], profile: SpeakerProfile) -> NDArray[np.float64]:
        """The calibrated prediction, (attributes,)."""
        settings = self.settings
        mu_bar, sigma_bar = label_statistics(
            self.bank, self.neighbours(profile.vector), self._columns, settings.statistics
        )
        return take_on(
            prediction,
            profile.moments,
            mu_bar,
            sigma_bar,
            shift_mean=settings.shift_mean,
            scale_std=settings.scale_std,
            limits=self.bank.scale if settings.clip else None,
        )

    def neighbours(self, vector: NDArray[np.float64]) -> NDArray[np.int64]:
        """Rows of the bank speakers with the greatest cosines to a vector (dim,), the nearest first.

        As `nearest_speakers`, but for one query at a time, where an index costs more than the product that it saves.
        """
        cosines = (self._vectors * normalised(vector - self._origin)).sum(axis=1)
        return np.argsort(-cosines, kind="stable")[: self.settings.k]

    @cached_property
    def _origin(self) -> NDArray[np.float64]:
        vectors = self.bank.vectors
        return vectors.mean(axis=0) if self.settings.center else np.zeros(vectors.shape[1])

    @cached_property
    def _vectors(self) -> NDArray[np.float64]:
        return normalised(self.bank.vectors - self._origin)

    @cached_property
    def _columns(self) -> list[int]:
        return [self.bank.attributes.index(attribute) for attribute in self.attributes]
