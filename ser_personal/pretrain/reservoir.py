"""A random sample of the frames that stream past, of bounded size."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

SLACK = 4096


class FrameReservoir:
    """Keeps each frame with the same chance, without knowing how many will come.

    Every frame has a random key in [0, 1), a pure function of seed, utterance and position. Frames with keys below
    `share` are kept; where they outgrow `capacity`, those with the smallest keys. So the sample depends neither on the
    order in which utterances pass nor on how they are batched. Memory grows to 1.25 `capacity` frames, and twice that
    while `sample` sorts them.

    Source: a reservoir by random keys (Efraimidis and Spirakis 2006, equal weights). fairseq draws whole utterances.

    Args:
        share: of all frames, as a chance.
        capacity: at most so many frames.
        seed: of the keys.
    """

    def __init__(self, share: float, capacity: int, seed: int) -> None:
        self.capacity, self.seed = capacity, seed
        self._limit = share
        self._size = 0
        slots = capacity + max(SLACK, capacity // 4)
        self._keys = np.empty(slots)
        self._origins = np.empty((slots, 2), dtype=np.int64)
        self._frames = np.empty((slots, 0), dtype=np.float32)

    def add(self, utterance: int, frames: NDArray[np.float32]) -> None:
        """Let the frames (frames, dim) of the utterance of that number pass by."""
        if not self._frames.shape[1]:
            # the system commits this memory only as it fills
            self._frames = np.empty((len(self._keys), frames.shape[1]), dtype=np.float32)
        keys = np.random.default_rng([self.seed, utterance]).random(len(frames))
        candidates = np.flatnonzero(keys < self._limit)
        while len(candidates):
            chosen = candidates[: len(self._keys) - self._size]
            slots = slice(self._size, self._size + len(chosen))
            self._keys[slots] = keys[chosen]
            self._origins[slots, 0] = utterance
            self._origins[slots, 1] = chosen
            self._frames[slots] = frames[chosen]
            self._size += len(chosen)
            if self._size == len(self._keys):
                self._evict()
            rest = candidates[len(chosen) :]
            candidates = rest[keys[rest] < self._limit]

    def _evict(self) -> None:
        """Keep the `capacity` smallest keys, moving only those frames that take an evicted one's place."""
        kept = np.zeros(self._size, dtype=bool)
        kept[np.argpartition(self._keys[: self._size], self.capacity - 1)[: self.capacity]] = True
        holes = np.flatnonzero(~kept[: self.capacity])
        movers = self.capacity + np.flatnonzero(kept[self.capacity :])
        for array in (self._keys, self._origins, self._frames):
            array[holes] = array[movers]
        self._size = self.capacity
        self._limit = self._keys[: self._size].max()

    def sample(self) -> NDArray[np.float32]:
        """Return the kept frames (n, dim), in the order of utterances and frames."""
        if self._size > self.capacity:
            self._evict()
        origins = self._origins[: self._size]
        return self._frames[np.lexsort((origins[:, 1], origins[:, 0]))]
