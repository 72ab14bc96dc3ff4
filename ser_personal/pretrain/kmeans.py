"""`ser kmeans`: one pass over the audio samples a teacher's frames for a codebook, a second writes pseudo-labels."""

from __future__ import annotations

import sys
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jsonargparse.typing import PositiveInt
from lightning.pytorch.utilities import rank_zero_only
from numpy.typing import NDArray
from torch import Tensor

from ser_personal.audio import num_frames
from ser_personal.corpus.base import Corpus
from ser_personal.corpus.splits import canonical_splits
from ser_personal.data.datamodule import AllUtterancesDataModule
from ser_personal.data.dataset import samples_of
from ser_personal.data.frame_store import PseudoLabels, PseudoLabelSource
from ser_personal.errors import UserError
from ser_personal.files import content_hash, gather_files, on_first_process
from ser_personal.pretrain.codebook import Codebook, FrameSample, nearest_centroid
from ser_personal.pretrain.teachers import MFCCTeacher, Precision, Teacher, TeacherPass, fill
from ser_personal.types import NumClusters, Seed, Share

MadeWith = dict[str, str | int | float]


class PseudoLabelData(AllUtterancesDataModule):
    """Whole utterances, in batches that are the same in every run.

    Args:
        corpus: a folder in MSP-Podcast's layout, a corpus.csv, or a corpus.
        fit_splits: to fit the codebook on; the training split if None, so that no test audio shapes the codebook.
        kwargs: further arguments of AllUtterancesDataModule.
    """

    def __init__(self, corpus: Corpus | str, *, fit_splits: list[str] | None = None, **kwargs: Any) -> None:
        super().__init__(corpus, max_samples=sys.maxsize, **kwargs)
        self._fit_splits = canonical_splits(fit_splits or ["train"])

    @cached_property
    def fit_indices(self) -> list[int]:
        """Positions in `utterances` of those that the codebook is fitted on."""
        return sorted({*self.used_indices} & {*self.indices_of(self._fit_splits)})

    @property
    def fingerprint(self) -> str:
        """Identifies the utterances, their lengths, and which of them the codebook is fitted on."""
        utterances = [self.utterances[index] for index in sorted(self.used_indices)]
        lengths = (f"{utterance.utterance_id}\t{samples_of(utterance)}" for utterance in utterances)
        return f"{len(utterances)} utterances, {content_hash(f'{sorted(self._fit_splits)}', *lengths)}"


def kmeans(
    data: PseudoLabelData,
    teacher: Teacher | None = None,
    out: str = "pseudo_labels",
    num_clusters: NumClusters = 100,
    sample_share: Share = 0.1,
    max_sampled_frames: PositiveInt = 1_000_000,
    iterations: PositiveInt = 100,
    restarts: PositiveInt = 1,
    codebook: str | None = None,
    seed: Seed = 0,
    accelerator: str = "auto",
    devices: PositiveInt = 1,
    num_nodes: PositiveInt = 1,
    precision: Precision = "32-true",
) -> None:
    """Fit a codebook on a teacher's frames, and write the pseudo-labels of every utterance.

    Resumes where an interrupted run with the same settings stopped, on any number of devices, and writes the same bytes
    on machines of the same kind. (If it was sampling, it samples again.) HuBERT clusters by scikit-learn's mini-batches
    on a tenth of the utterances; we use faiss on a tenth of the frames.

    Args:
        data: which audio.
        teacher: whose frames are clustered; MFCC if None.
        out: folder of codebook and pseudo-labels.
        num_clusters: K; HuBERT has 100 on MFCC, 500 on its own layers.
        sample_share: share of the frames that the codebook is fitted on.
        max_sampled_frames: frames that it is fitted on, at most; bounds memory.
        iterations: of k-means.
        restarts: of k-means, of which the best is taken.
        codebook: a codebook.safetensors of the same teacher to use instead of fitting one, with its own num_clusters.
        seed: of the sample and of k-means.
        accelerator: what the teacher runs on, as Lightning names it.
        devices: of each machine, among which the audio is divided; the outcome doesn't depend on their number.
        num_nodes: machines, which must share `out`.
        precision: of the teacher, as Lightning names it.
    """
    teacher = teacher or MFCCTeacher()
    teacher.build()
    on = {"accelerator": accelerator, "devices": devices, "num_nodes": num_nodes, "precision": precision}
    description: MadeWith = {**teacher.description}
    made_with: MadeWith = {**description, "precision": precision, "data": data.fingerprint}
    given = None if codebook is None else Codebook.load(codebook)
    if given is None:
        made_with |= {"num_clusters": num_clusters, "iterations": iterations, "restarts": restarts, "seed": seed}
        made_with |= {"sample_share": sample_share, "max_sampled_frames": max_sampled_frames}
    else:
        # an imported one names no teacher
        if given.made_with:
            remedy = "Give the --teacher that it was fitted on, or --codebook null"
            _refuse_other(given, given.made_with | description, codebook, remedy)
        made_with |= {"codebook": given.hash}
    path = Path(out) / "codebook.safetensors"
    if path.exists():
        chosen = Codebook.load(path)
        _refuse_other(chosen, made_with, out, "Give another --out, the same settings, or delete the folder")
    else:
        if given is None:
            frame_counts = {index: num_frames(samples_of(data.utterances[index])) for index in data.fit_indices}
            sample = FrameSample(frame_counts, sample_share, max_sampled_frames, seed)
            trainer = TeacherPass(data, lambda _: data.batches(data.fit_indices), teacher, sample.take).run(**on)
            if trainer.world_size > 1:
                gather_files(trainer, out, sample.save, lambda paths: sample.merge(paths[1:]))
            fit = partial(Codebook.fit, sample.frames, num_clusters, iterations, restarts, seed)
            given = on_first_process(trainer, fit)
        chosen = Codebook(given.centroids, made_with)
        rank_zero_only(chosen.save)(path)

    source = PseudoLabelSource(
        num_clusters=len(chosen.centroids),
        teacher=str(made_with["teacher"]),
        codebook_hash=chosen.hash,
        teacher_layer=getattr(teacher, "teacher_layer", None),
    )
    # sent once to the device of the frames
    centroids = cache(torch.from_numpy(chosen.centroids).to)

    def pseudo_labels(frames: Tensor) -> NDArray[np.int64]:
        clusters, dim = chosen.centroids.shape
        if frames.shape[1] != dim:
            what = f"{clusters} clusters of {dim} dimensions for frames of {frames.shape[1]}"
            raise UserError(what, where="codebook", remedy="Give the teacher and the teacher_layer it was fitted on")
        return nearest_centroid(frames, centroids(frames.device)).cpu().numpy()

    fill(PseudoLabels.create(out, source), data, teacher, pseudo_labels, **on)
    rank_zero_only(_report)(out)


def _report(out: str) -> None:
    pseudo_labels = PseudoLabels.load(out)
    counts = np.zeros(pseudo_labels.source.num_clusters, dtype=np.int64)
    for utterance_id in pseudo_labels:
        counts += np.bincount(pseudo_labels[utterance_id], minlength=len(counts))
    print(f"{out}: K = {len(counts)}, {counts.sum():,} frames, {(counts > 0).sum()} clusters used")


def _refuse_other(codebook: Codebook, expected: MadeWith, where: object, remedy: str) -> None:
    before = codebook.made_with
    keys = [key for key in sorted({*before, *expected}) if before.get(key) != expected.get(key)]
    differing = [f"{key} {before.get(key, 'not set')}, now {expected.get(key, 'not set')}" for key in keys]
    if differing:
        raise UserError(f"was made with other settings ({'; '.join(differing)})", where=where, remedy=remedy)
