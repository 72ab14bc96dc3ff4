"""The k-means centroids: fitted by faiss, kept as safetensors, asked which of them is nearest to a frame."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from ser_personal.errors import UserError
from ser_personal.files import write_whole

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

FORMAT = "ser_personal.codebook"
FORMAT_VERSION = 1
DISTANCES_AT_ONCE = 2**24


@dataclass(frozen=True)
class Codebook:
    """K centroids.

    Attributes:
        centroids: (clusters, dim) float32.
        made_with: the settings that it was fitted with; empty for one from elsewhere.
    """

    centroids: NDArray[np.float32]
    made_with: dict[str, str | int | float] = field(default_factory=dict)

    @property
    def hash(self) -> str:
        """Identifies the centroids: sha256 of their shape and little-endian bytes."""
        shape = repr(self.centroids.shape).encode()
        return hashlib.sha256(shape + self.centroids.astype("<f4").tobytes()).hexdigest()[:16]

    @classmethod
    def fit(cls, frames: NDArray[np.float32], num_clusters: int, iterations: int, restarts: int, seed: int) -> Self:
        """Cluster all of `frames` (n, dim) by faiss, on the GPUs where faiss sees any.

        Raises:
            UserError: fewer frames than clusters.
        """
        import faiss

        if len(frames) < num_clusters:
            raise UserError(
                f"{num_clusters} clusters for {len(frames)} sampled frames",
                where="num_clusters",
                remedy="Ask for fewer clusters, raise sample_share, or give more audio",
            )
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
        """Read what `save` or `ser import` wrote.

        Raises:
            UserError: no such file, no codebook in it, a damaged one, or one of another format.
        """
        try:
            with safe_open(path, framework="numpy") as file:
                centroids = file.get_tensor("codebook")
                provenance: dict[str, Any] = json.loads((file.metadata() or {}).get("provenance", "{}"))
        except (OSError, SafetensorError, ValueError) as error:
            remedy = "Give a codebook.safetensors that `ser kmeans` or `ser import` wrote"
            raise UserError("not a codebook", where=path, remedy=remedy) from error
        if not isinstance(provenance, dict) or not isinstance(provenance.get("made_with", {}), dict):
            raise UserError("codebook doesn't say what made it", where=path, remedy="Write it again with `ser kmeans`")
        version = provenance.get("format_version", FORMAT_VERSION)
        if (provenance.get("format", FORMAT), version) != (FORMAT, FORMAT_VERSION):
            raise UserError(
                f"codebook of format {version}; this version reads format {FORMAT_VERSION}",
                where=path,
                remedy="Update ser_personal, or write it again with `ser kmeans`",
            )
        if centroids.ndim != 2 or not centroids.size:
            raise UserError("codebook isn't (clusters, dim)", where=path, remedy="Write it again with `ser kmeans`")
        codebook = cls(np.ascontiguousarray(centroids, dtype=np.float32), provenance.get("made_with", {}))
        if provenance.get("hash", codebook.hash) != codebook.hash:
            raise UserError("codebook doesn't match its own hash", where=path, remedy="Copy or write it again")
        if not np.isfinite(codebook.centroids).all():
            raise UserError("codebook holds NaN or infinity", where=path, remedy="Write it again with `ser kmeans`")
        return codebook

    def save(self, path: str | Path) -> None:
        """Write safetensors; whoever is interrupted leaves no half file behind."""
        # One entry: safetensors writes several in an order that changes from run to run.
        provenance = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "hash": self.hash,
            "made_with": self.made_with,
        }
        metadata = {"provenance": json.dumps(provenance, sort_keys=True)}
        write_whole(path, save({"codebook": self.centroids}, metadata=metadata))


def nearest_centroid(frames: Tensor, centroids: Tensor) -> Tensor:
    """Find for each frame (n, dim) the centroid (clusters, dim) at the least Euclidean distance -> (n,)."""
    # |x - c|^2 = |x|^2 - 2 (x.c - |c|^2 / 2), and |x|^2 is the same for every centroid
    offset = centroids.square().sum(1) / 2
    rows = max(1, DISTANCES_AT_ONCE // len(centroids))
    return torch.cat([(part @ centroids.T - offset).argmax(1) for part in frames.split(rows)])
