"""What PLDC is compared with: the raw predictions, one affine map for everyone, random speakers, and an oracle."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol, Self

import numpy as np
from numpy.typing import ArrayLike

from ser_personal.calibration.neighbours import Neighbours
from ser_personal.calibration.pldc import FLOAT32_ROUNDING, PLDC
from ser_personal.scores import Moments, Values, rows_by_speaker
from ser_personal.speakers.bank import SpeakerBank, as_float64


class Calibrator(Protocol):
    """Changes predictions without seeing a label of their set."""

    def __call__(self, predictions: Values, speaker_ids: Sequence[str | None], pooled: Values) -> Values:
        """Calibrated predictions, (utterances, attributes); (draws, utterances, attributes) where chance takes part."""


def raw(predictions: Values, speaker_ids: Sequence[str | None], pooled: Values) -> Values:
    """The model's predictions as they are."""
    del speaker_ids, pooled
    return predictions


@dataclass(frozen=True, eq=False)
class AffineMap:
    """One line per attribute for everyone: does PLDC do more than rescale a model that is off on all speakers?

    `slope` is (attributes,), `intercept` (attributes,) in label points.
    """

    slope: Values
    intercept: Values

    @classmethod
    def fit(cls, predictions: ArrayLike, labels: ArrayLike) -> Self:
        r"""The affine map of the greatest CCC on validation speakers: it matches the moments.

        For :math:`a y + b` the CCC is at most :math:`|\rho|`, reached where both moments equal the labels', hence
        :math:`a = \mathrm{sign}(\rho) \sigma_l / \sigma_y` and :math:`b = \mu_l - a \mu_y`. Least squares would shrink
        the slope by :math:`|\rho|`, which lowers the CCC. Predictions that are constant but for float32 rounding keep
        slope 1; an attribute without labels keeps its predictions. Both are (utterances, attributes), label points,
        NaN where a label is missing.
        """
        predicted, labelled = as_float64(predictions), as_float64(labels)
        slope, intercept = np.ones(predicted.shape[1]), np.zeros(predicted.shape[1])
        for column in range(predicted.shape[1]):
            rows = ~np.isnan(labelled[:, column])
            x, y = predicted[rows, column], labelled[rows, column]
            if len(x) == 0:
                continue
            if Moments.of(x).std > FLOAT32_ROUNDING * y.std():
                sign = -1.0 if np.mean((x - x.mean()) * (y - y.mean())) < 0 else 1.0
                slope[column] = sign * y.std() / x.std()
            intercept[column] = y.mean() - slope[column] * x.mean()
        return cls(slope, intercept)

    def apply(self, predictions: Values) -> Values:
        """Map predictions (..., attributes), or (utterances,) of one attribute."""
        return self.slope * predictions + self.intercept

    def __call__(self, predictions: Values, speaker_ids: Sequence[str | None], pooled: Values) -> Values:
        """Mapped predictions, (utterances, attributes)."""
        return self.apply(predictions)


@dataclass(frozen=True)
class RandomSpeakers:
    """PLDC towards k training speakers drawn at random for each test speaker: does it matter who sounds alike?

    The same seed draws the same speakers, none twice, in whatever order the utterances come.
    """

    pldc: PLDC
    draws: int = 20
    seed: int = 0

    def __call__(self, predictions: Values, speaker_ids: Sequence[str | None], pooled: Values) -> Values:
        """Calibrated predictions, (draws, utterances, attributes)."""
        rng = np.random.default_rng(self.seed)
        rows_of, speakers = rows_by_speaker(speaker_ids), len(self.pldc.bank.speaker_ids)
        k = min(self.pldc.settings.k, speakers)
        no_cosines, draws = np.full(k, np.nan), []
        for _ in range(self.draws):
            drawn = {speaker: Neighbours(rng.choice(speakers, k, replace=False), no_cosines) for speaker in rows_of}
            draws.append(self.pldc.towards(drawn, predictions, rows_of).predictions)
        return np.stack(draws)


def no_controls(k: int, training_speakers: int) -> str:
    """Say that controls by other neighbours are none, where PLDC takes every training speaker; a clause, else empty."""
    if k < training_speakers:
        return ""
    return (
        f"k = {k} takes all {training_speakers} training speakers, so population and random_speakers repeat PLDC and "
        "are no controls; a smaller k makes them some"
    )


def own_statistics(
    pldc: PLDC, predictions: Values, speaker_ids: Sequence[str | None], pooled: Values, labels: Values
) -> Values:
    """The oracle: PLDC towards each test speaker's own label moments, (utterances, attributes).

    It reads the labels of the test set, so it is never a result. It shows what PLDC would reach if the similar
    speakers had exactly the test speaker's label moments.
    """
    own = SpeakerBank.from_utterances(speaker_ids, pooled, labels, pldc.attributes, pldc.bank.scale)
    neighbours = {s: Neighbours(np.array([row]), np.ones(1)) for row, s in enumerate(own.speaker_ids)}
    return replace(pldc, bank=own).towards(neighbours, predictions, rows_by_speaker(speaker_ids)).predictions
