"""The k-means centroids: fitted by faiss on a sample of frames, saved as safetensors, looked up by frame."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from torch import Tensor

from ser_personal.errors import UserError
from ser_personal.files import atomic_write, content_hash

FORMAT_VERSION = 2


@dataclass(frozen=True)
class Codebook:
    """Centroids (clusters, dim), and the settings that they were fitted with, none for imported ones."""

    centroids: NDArray[np.float32]
    made_with: dict[str, str | int | float] = field(default_factory=dict)

    @property
    def hash(self) -> str:
        """Hash of the centroids."""
        return content_hash(self.centroids.astype("<f4"))

    @classmethod
    def fit(cls, frames: NDArray[np.float32], num_clusters: int, iterations: int, restarts: int, seed: int) -> Self:
        """Cluster all of `frames` (n, dim) by faiss, on the GPUs where faiss sees any."""
        import faiss

        if len(frames) < num_clusters:
            what = f"{num_clusters} clusters for {len(frames)} sampled frames"
            remedy = "Ask for fewer clusters, raise sample_share, or give more audio"
            raise UserError(what, where="num_clusters", remedy=remedy)
        fitted = faiss.Kmeans(
            frames.shape[1],
            num_clusters,
            niter=iterations,
            nredo=restarts,
            seed=seed,
            gpu=faiss.get_num_gpus() > 0,
            # faiss would silently fit on 256 frames a cluster, and warn below 39 of them
            max_points_per_centroid=len(frames),
            min_points_per_centroid=1,
        )
        fitted.train(frames)
        return cls(np.asarray(fitted.centroids, dtype=np.float32))

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a file of `save` or `ser import`."""
        try:
            with safe_open(path, framework="numpy") as file:
                centroids = file.get_tensor("codebook")
                provenance: dict[str, Any] = json.loads((file.metadata() or {}).get("provenance", "{}"))
            codebook = cls(np.ascontiguousarray(centroids, dtype=np.float32), dict(provenance.get("made_with", {})))
            if provenance.get("format_version", FORMAT_VERSION) != FORMAT_VERSION:
                raise ValueError(f"of format {provenance['format_version']}, this version reads {FORMAT_VERSION}")
            complete = centroids.ndim == 2 and centroids.size and np.isfinite(codebook.centroids).all()
            if not complete or provenance.get("hash", codebook.hash) != codebook.hash:
                raise ValueError("damaged")
        except (AttributeError, OSError, SafetensorError, TypeError, ValueError) as error:
            remedy = "Give one that `ser kmeans` or `ser import hubert_base_ls960_L9_km500.bin --out released` wrote;"
            remedy += " in `ser kmeans`, --codebook null fits one"
            raise UserError(f"not a codebook ({error})", where=path, remedy=remedy) from error
        return codebook

    def save(self, path: str | Path) -> None:
        """Write safetensors, atomically."""
        # One entry: safetensors writes several in an order that changes from run to run.
        provenance = {"format_version": FORMAT_VERSION, "hash": self.hash, "made_with": self.made_with}
        metadata = {"provenance": json.dumps(provenance, sort_keys=True)}
        atomic_write(path, save({"codebook": self.centroids}, metadata=metadata))


def nearest_centroid(frames: Tensor, centroids: Tensor) -> Tensor:
    """Find for each frame (n, dim) the centroid (clusters, dim) at the least Euclidean distance -> (n,)."""
    # bfloat16 would give up to 1.3 % of the frames to another centroid
    with torch.autocast(frames.device.type, enabled=False):
        frames, centroids = frames.float(), centroids.float()
        # |x - c|^2 = |x|^2 - 2 (x.c - |c|^2 / 2), and |x|^2 is the same for every centroid
        return (frames @ centroids.T - centroids.square().sum(1) / 2).argmax(1)


class FrameSample:
    """A random sample of the frames of utterances, of which this process holds those that it has taken or merged.

    Every frame has a random key in [0, 1), a pure function of seed, utterance and position (Efraimidis and Spirakis
    2006). Frames with keys below `share` are drawn; if they are more than `capacity`, those with the smallest keys. So
    the draw depends neither on batches nor on the number of processes. fairseq draws whole utterances.
    """

    def __init__(self, frame_counts: Mapping[int, int], share: float, capacity: int, seed: int) -> None:
        keys, origins = [np.empty(0)], [np.empty((2, 0), np.int64)]
        for utterance, frames in frame_counts.items():
            drawn = np.random.default_rng([seed, utterance]).random(frames)
            chosen = np.flatnonzero(drawn < share)
            keys.append(drawn[chosen])
            origins.append(np.stack([np.full(len(chosen), utterance), chosen]))
        smallest = np.argsort(np.concatenate(keys))[:capacity]
        drawn_origins = np.concatenate(origins, axis=1)[:, smallest]
        # (n,), indices of the drawn frames' utterances, ascending, and their positions in them
        self.utterances, self.positions = drawn_origins[:, np.lexsort(drawn_origins[::-1])]
        # (n, dim), in this order; memory is reserved for all, and used only as they come
        self.frames: NDArray[np.float32] = np.empty((len(smallest), 0), dtype=np.float32)
        self._added = [np.empty(0, np.int64)]

    def take(self, frames: Mapping[int, Tensor]) -> None:
        """Keep those of utterances' frames (frames, dim) that were drawn."""
        for utterance, of_one in frames.items():
            rows = np.arange(*np.searchsorted(self.utterances, [utterance, utterance + 1]))
            if len(rows):
                self._add(rows, of_one[self.positions[rows]].float().cpu().numpy())

    def _add(self, rows: NDArray[np.int64], frames: NDArray[np.float32]) -> None:
        if not self.frames.shape[1]:
            self.frames = np.empty((len(self.frames), frames.shape[1]), dtype=np.float32)
        self.frames[rows] = frames
        self._added.append(rows)

    def save(self, path: Path) -> None:
        """Write the frames that this process has taken."""
        rows = np.concatenate(self._added)
        with path.open("wb") as file:
            np.save(file, rows)
            np.save(file, self.frames[rows])

    def merge(self, paths: Iterable[Path]) -> None:
        """Read the frames that other processes have saved."""
        for path in paths:
            with path.open("rb") as file:
                rows, frames = (np.load(file, allow_pickle=False) for _ in range(2))
            if len(rows):
                self._add(rows, frames)
