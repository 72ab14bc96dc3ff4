"""`ser kmeans`: a teacher's frames -> a codebook -> pseudo-labels.

Two passes over the audio: the first samples frames for faiss to cluster, the second writes the nearest cluster of every
frame. Features are never stored.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ser_personal.data.pseudo_labels import MAX_CLUSTERS, PseudoLabels, PseudoLabelSource, PseudoLabelWriter
from ser_personal.errors import UserError
from ser_personal.pretrain.codebook import Codebook
from ser_personal.pretrain.pseudo_label_data import PseudoLabelData
from ser_personal.pretrain.reservoir import FrameReservoir
from ser_personal.pretrain.teachers import MFCCTeacher, Teacher
from ser_personal.ranges import LARGEST_SEED, require_range

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ser_personal.types import Utterance

UTTERANCES_AT_ONCE = 1000


@dataclass(frozen=True)
class CodebookUsage:
    """How evenly the clusters are used.

    Attributes:
        frames: how many ids were counted.
        used: clusters that at least one frame belongs to.
        entropy: of the clusters' shares, in bits; log2 K where all are used alike.
    """

    frames: int
    used: int
    entropy: float

    @classmethod
    def from_counts(cls, counts: NDArray[np.int64]) -> CodebookUsage:
        """Sum up frames per cluster (clusters,)."""
        shares = counts[counts > 0] / counts.sum()
        return cls(int(counts.sum()), len(shares), float(-(shares * np.log2(shares)).sum()) + 0.0)


def kmeans(
    data: PseudoLabelData,
    teacher: Teacher | None = None,
    out: str = "pseudo_labels",
    num_clusters: int = 100,
    sample_share: float = 0.1,
    max_sampled_frames: int = 1_000_000,
    iterations: int = 100,
    restarts: int = 1,
    codebook: str | None = None,
    seed: int = 0,
    accelerator: str = "auto",
    devices: int = 1,
    precision: str = "32-true",
) -> None:
    """Fit a codebook on a teacher's frames, and write the pseudo-labels of every utterance.

    Goes on where an interrupted run with the same settings stopped, to the same bytes on the same machine. HuBERT
    clusters by scikit-learn's mini-batches on a tenth of the utterances; we use faiss on a tenth of the frames.

    Args:
        data: which audio.
        teacher: whose frames are clustered; MFCC if None.
        out: folder of codebook and pseudo-labels.
        num_clusters: K; HuBERT has 100 on MFCC, 500 on its own layers.
        sample_share: share of the frames that the codebook is fitted on.
        max_sampled_frames: frames that it is fitted on, at most; bounds memory.
        iterations: of k-means.
        restarts: fit so many times and keep the best.
        codebook: a codebook.safetensors to use instead of fitting one; num_clusters is then its own.
        seed: of the sample and the fit.
        accelerator: what the teacher runs on, as Lightning names it.
        devices: must be 1.
        precision: of the teacher, as Lightning names it.

    Raises:
        UserError: a setting is impossible, or `out` was made with other settings.
    """
    from ser_personal.pretrain.teacher_pass import FrameSampler, IdWriter, run_teacher

    started = time.perf_counter()
    # an id takes two bytes
    require_range("num_clusters", num_clusters, 1, MAX_CLUSTERS)
    require_range("sample_share", sample_share, 0, 1, above=True)
    require_range("max_sampled_frames", max_sampled_frames, 1)
    require_range("iterations", iterations, 1)
    require_range("restarts", restarts, 1)
    require_range("seed", seed, 0, LARGEST_SEED)
    _require_one_device(devices)
    teacher = teacher or MFCCTeacher()
    teacher.check_precision(precision)
    teacher.build()
    run = partial(run_teacher, teacher, accelerator=accelerator, precision=precision)
    external = None if codebook is None else Codebook.load(codebook)
    description = teacher.description
    made_with: dict[str, str | int | float] = {**description, "precision": precision, "data": data.fingerprint}
    made_with |= (
        {"codebook": external.hash}
        if external
        else {
            "num_clusters": num_clusters,
            "sample_share": sample_share,
            "max_sampled_frames": max_sampled_frames,
            "iterations": iterations,
            "restarts": restarts,
            "seed": seed,
        }
    )

    path = Path(out) / "codebook.safetensors"
    chosen = _existing(path, made_with)
    if chosen is None:
        if external:
            centroids = external.centroids
        else:
            # room for no more frames than there are
            reservoir = FrameReservoir(sample_share, min(max_sampled_frames, data.fit_frames), seed)
            run(data.fit_loader(), FrameSampler(reservoir), "Sampling frames")
            centroids = Codebook.fit(reservoir.sample(), num_clusters, iterations, restarts, seed).centroids
        chosen = Codebook(centroids, made_with)
        chosen.save(path)

    source = PseudoLabelSource(
        num_clusters=len(chosen.centroids),
        teacher=str(description["teacher"]),
        codebook_hash=chosen.hash,
        teacher_layer=teacher.teacher_layer,
    )
    loader = data.loader()
    with PseudoLabelWriter(out, source) as writer:
        # Batches keep their make-up, on which a network's rounding depends: the one broken off is run again whole.
        first = _first_unwritten(loader.batch_sampler.plan(0), data.utterances, writer)
        if first is not None:
            loader.load_state_dict({"position": first})
            run(loader, IdWriter(data.utterances, chosen, writer), "Writing pseudo-labels")
        writer.finish()

    usage = codebook_usage(PseudoLabels.load(out), [utterance.utterance_id for utterance in data.utterances])
    clusters = len(chosen.centroids)
    print(
        f"{out}: K = {clusters}, {usage.frames:,} frames, {usage.used} clusters used, entropy {usage.entropy:.2f} of "
        f"{np.log2(clusters):.2f} bits, {time.perf_counter() - started:.1f} s"
    )


def codebook_usage(pseudo_labels: PseudoLabels, utterance_ids: list[str]) -> CodebookUsage:
    """Count over the given utterances how often each cluster occurs."""
    counts = np.zeros(pseudo_labels.num_clusters, dtype=np.int64)
    for start in range(0, len(utterance_ids), UTTERANCES_AT_ONCE):
        ids = [pseudo_labels[utterance_id] for utterance_id in utterance_ids[start : start + UTTERANCES_AT_ONCE]]
        counts += np.bincount(np.concatenate(ids), minlength=len(counts))
    return CodebookUsage.from_counts(counts)


def _first_unwritten(batches: list[list[int]], utterances: list[Utterance], writer: PseudoLabelWriter) -> int | None:
    """Find the first batch that isn't written whole; None if all are."""
    for number, batch in enumerate(batches):
        if any(utterances[index].utterance_id not in writer for index in batch):
            return number
    return None


def _existing(path: Path, made_with: dict[str, str | int | float]) -> Codebook | None:
    """Take up the codebook that an earlier run left.

    Raises:
        UserError: it was made with other settings.
    """
    if not path.exists():
        return None
    codebook = Codebook.load(path)
    before = codebook.made_with
    differing = [
        f"{key} {before.get(key, 'not set')}, now {made_with.get(key, 'not set')}"
        for key in sorted({*before, *made_with})
        if before.get(key) != made_with.get(key)
    ]
    if differing:
        what = f"was made with other settings ({'; '.join(differing)})"
        raise UserError(what, where=path.parent, remedy="Give another --out, the same settings, or delete the folder")
    return codebook


def _require_one_device(devices: int) -> None:
    if devices != 1 or int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError(
            "pseudo-labels are made on one device", where="devices", remedy="Run one process with --devices 1"
        )
