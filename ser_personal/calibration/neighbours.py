"""Who a test speaker's neighbours are: the training speakers whose vectors have the highest cosine similarity."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from ser_personal.speakers.bank import SpeakerBank

_FLOAT32_COSINE_ERROR = 1e-5


class Neighbours(NamedTuple):
    """Bank speakers near to a test speaker, the nearest first.

    Attributes:
        rows: (k,), rows of the bank.
        cosines: (k,), between their speaker vectors and the test speaker's.
    """

    rows: NDArray[np.int64]
    cosines: NDArray[np.float64]


def speaker_vectors(pooled: NDArray[np.float64], rows_of: Mapping[str, NDArray[np.int64]]) -> NDArray[np.float64]:
    """Mean (speakers, dim) of `pooled` (utterances, dim) over each speaker's utterances."""
    return np.reshape([pooled[rows].mean(axis=0) for rows in rows_of.values()], (-1, pooled.shape[1]))


def nearest_speakers(
    vectors: NDArray[np.float64], bank: SpeakerBank, k: int, *, center: bool = False
) -> list[Neighbours]:
    """For each of some speaker vectors (speakers, dim), the k bank speakers with the greatest cosine to it.

    faiss retrieves all candidates in float32, with a margin for rounding; their cosines are then taken in float64, so
    that neither float32 rounding nor the order of rows decides between speakers who are almost equally near.
    """
    import faiss

    origin = bank.vectors.mean(axis=0) if center else 0.0
    bank_vectors, queries = normalised(bank.vectors - origin), normalised(vectors - origin)
    index = faiss.IndexFlatIP(bank_vectors.shape[1])
    index.add(np.ascontiguousarray(bank_vectors, dtype=np.float32))
    neighbours = []
    for query in queries:
        query32 = np.ascontiguousarray(query[None], dtype=np.float32)
        best, _ = index.search(query32, min(k, len(bank_vectors)))
        _, _, found = index.range_search(query32, float(best[0, -1]) - _FLOAT32_COSINE_ERROR)
        candidates = np.sort(found)
        cosines = (bank_vectors[candidates] * query).sum(axis=1)
        nearest = np.argsort(-cosines, kind="stable")[:k]
        neighbours.append(Neighbours(candidates[nearest], cosines[nearest]))
    return neighbours


def normalised(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Vectors (..., dim) scaled to unit L2 norm; zero vectors stay zero."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.where(lengths > 0, lengths, 1.0)
