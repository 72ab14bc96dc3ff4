"""Who a test speaker's neighbours are in PLDC: the training speakers whose vectors have the greatest cosine."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ser_personal.scores import Values
from ser_personal.speakers.bank import SpeakerBank


class Neighbours(NamedTuple):
    """Bank speakers near to a test speaker, the nearest first: rows of the bank (k,), and their cosines (k,)."""

    rows: NDArray[np.int64]
    cosines: Values


def speaker_vectors(pooled: Values, rows_of: Mapping[str, NDArray[np.int64]]) -> Values:
    """Mean (speakers, dim) of `pooled` (utterances, dim) over each speaker's utterances."""
    return np.reshape([pooled[rows].mean(axis=0) for rows in rows_of.values()], (-1, pooled.shape[1]))


def nearest_speakers(vectors: Values, bank: SpeakerBank, k: int, *, center: bool = False) -> list[Neighbours]:
    """For each of some speaker vectors (speakers, dim), the k bank speakers with the greatest cosine to it."""
    origin = bank.vectors.mean(axis=0) if center else 0.0
    bank_vectors = normalised(bank.vectors - origin)
    return [nearest_rows(query, bank_vectors, k) for query in normalised(vectors - origin)]


def nearest_rows(query: Values, vectors: Values, k: int) -> Neighbours:
    """The k rows of `vectors` (n, dim) with the greatest cosine to a query (dim,), all normalised; ties by row."""
    # a matrix product could give equal rows unequal cosines
    cosines = (vectors * query).sum(axis=1)
    nearest = np.argsort(-cosines, kind="stable")[:k]
    return Neighbours(nearest, cosines[nearest])


def normalised(vectors: Values) -> Values:
    """Vectors (..., dim) scaled to unit L2 norm; zero vectors stay zero."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.where(lengths > 0, lengths, 1.0)
