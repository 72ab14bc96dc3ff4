"""One training speaker's mean vector and label statistics, utterance by utterance, in memory of their width alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(eq=False)
class SpeakerSums:
    """One speaker's running sums.

    Moments by Welford's update: unlike a sum of squares it loses no digits, and equal labels have deviation 0. Squares
    are those of distances to the speaker's mean.

    Attributes:
        utterances: how many were added.
        vector_sum: (dim,), of their vectors.
        vector_squares: (dim,), of their vectors.
        count: (attributes,), labelled utterances.
        label_mean: (attributes,), label points, 0 where count is 0.
        label_squares: (attributes,), of their labels.
    """

    utterances: int
    vector_sum: NDArray[np.float64]
    vector_squares: NDArray[np.float64]
    count: NDArray[np.int64]
    label_mean: NDArray[np.float64]
    label_squares: NDArray[np.float64]

    @classmethod
    def nothing(cls, dim: int, num_attributes: int) -> Self:
        """Sums of no utterance."""
        count = np.zeros(num_attributes, dtype=np.int64)
        return cls(0, np.zeros(dim), np.zeros(dim), count, np.zeros(num_attributes), np.zeros(num_attributes))

    def add(self, vector: NDArray[np.float64], labels: NDArray[np.float64]) -> None:
        """Add an utterance, its vector (dim,) and its labels (attributes,), NaN where missing."""
        before_it = max(self.utterances, 1)
        self.vector_squares += (vector - self.vector_sum / before_it) ** 2 * self.utterances / (self.utterances + 1)
        self.utterances += 1
        self.vector_sum += vector
        labelled = ~np.isnan(labels)
        self.count += labelled
        before = np.where(labelled, labels - self.label_mean, 0.0)
        self.label_mean += before / np.maximum(self.count, 1)
        self.label_squares += before * np.where(labelled, labels - self.label_mean, 0.0)

    def merge(self, other: SpeakerSums) -> None:
        """Add another's (Chan et al. 1983); exactly nothing where it has no label, or equal means."""
        total = np.maximum(self.count + other.count, 1)
        distance = np.where((self.count > 0) & (other.count > 0), other.label_mean - self.label_mean, 0.0)
        self.label_squares += other.label_squares + distance**2 * self.count * other.count / total
        self.label_mean = np.where(self.count > 0, self.label_mean + distance * other.count / total, other.label_mean)
        self.count += other.count
        ours, theirs = self.utterances, other.utterances
        apart = self.vector_sum / max(ours, 1) - other.vector_sum / max(theirs, 1)
        self.vector_squares += other.vector_squares + apart**2 * ours * theirs / max(ours + theirs, 1)
        self.vector_sum += other.vector_sum
        self.utterances += other.utterances
