"""Weighted ridge regression whose strength is chosen by leaving out each row in turn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

# The strongest first; in units of the features' variance along an average direction.
STRENGTHS = np.array([np.inf, *np.logspace(4, -4, 33)])
_GREATEST_LEVERAGE = 1 - 1e-9


@dataclass(frozen=True, eq=False)
class LinearMap:
    """What a regression comes to.

    Attributes:
        coefficients: (features,).
        intercept: the prediction for features of 0.
    """

    coefficients: NDArray[np.float64]
    intercept: float

    def __call__(self, features: NDArray[np.float64]) -> NDArray[np.float64]:
        """Predictions (rows,) for (rows, features)."""
        predictions: NDArray[np.float64] = features @ self.coefficients + self.intercept
        return predictions


@dataclass(frozen=True, eq=False)
class Ridge(LinearMap):
    """A regression and the rows that it was fitted on.

    Attributes:
        strength: the chosen one of `STRENGTHS`; infinity where the features tell nothing.
        fitted: (rows,), predictions for the rows that it was fitted on.
        left_out: (rows,), predictions for them, each by a regression of this strength fitted without it.
    """

    strength: float
    fitted: NDArray[np.float64]
    left_out: NDArray[np.float64]

    @classmethod
    def fit(cls, features: NDArray[np.float64], targets: NDArray[np.float64], weights: NDArray[np.float64]) -> Self:
        """Regress (rows,) targets on (rows, features), shrinking all features alike and the intercept not at all.

        A row's leverage tells what leaving it out would change, so one decomposition serves all strengths and rows.
        Of equal errors the stronger wins.
        """
        share = weights / weights.sum()
        root = np.sqrt(share)[:, None]
        feature_mean, target_mean = share @ features, share @ targets
        left, singular, right = np.linalg.svd(root * (features - feature_mean), full_matrices=False)
        projected = left.T @ (root[:, 0] * (targets - target_mean))
        spread = np.mean(singular**2) or 1.0
        singular = np.where(singular > 0, singular, np.finfo(np.float64).tiny)
        kept = singular**2 / (singular**2 + STRENGTHS[:, None] * spread)
        fitted = target_mean + left @ (kept * projected).T / root
        leverage = np.minimum(left**2 @ kept.T + share[:, None], _GREATEST_LEVERAGE)
        left_out = targets[:, None] - (targets[:, None] - fitted) / (1 - leverage)
        best = int(np.argmin(share @ (targets[:, None] - left_out) ** 2))
        coefficients = right.T @ (kept[best] * projected / singular)
        intercept = float(target_mean - feature_mean @ coefficients)
        return cls(coefficients, intercept, float(STRENGTHS[best]), fitted[:, best], left_out[:, best])
