"""`ser kmeans` against dump-then-cluster: disk, time of the fit, and inertia, on the same features.

    python benchmarks/kmeans.py

The features are those of one random Transformer layer of HuBERT-base's width over a synthetic corpus. Dump-then-cluster
writes all of them as float32 and fits scikit-learn's MiniBatchKMeans with fairseq's settings. Both sides fit on the
same sampled frames; inertia is the mean square distance of all frames to their nearest centroid.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from record import record
from sklearn.cluster import MiniBatchKMeans
from transformers import HubertConfig

from ser_personal.corpus.synthetic import synth
from ser_personal.data.frame_store import PseudoLabels
from ser_personal.encoder.hubert import HubertEncoder
from ser_personal.pretrain.codebook import Codebook
from ser_personal.pretrain.kmeans import PseudoLabelData, kmeans
from ser_personal.pretrain.teachers import EncoderTeacher

# learn_kmeans.py of fairseq's examples/hubert/simple_kmeans
FAIRSEQ = {
    "init": "k-means++",
    "max_iter": 100,
    "batch_size": 10_000,
    "tol": 0.0,
    "max_no_improvement": 100,
    "n_init": 20,
    "reassignment_ratio": 0.0,
}


class RandomTeacher(EncoderTeacher):
    """One Transformer layer of HuBERT-base's width with random weights: features without a hub."""

    def build(self) -> None:
        """Make the weights, the same each time."""
        torch.manual_seed(0)
        self.encoder.build(HubertConfig(num_hidden_layers=1).to_json_string(use_diff=False))


def main() -> None:
    """Run both sides, print the ratios and record them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--speakers", type=int, default=8, help="of 10 utterances each")
    parser.add_argument("--clusters", type=int, default=100, help="K")
    parser.add_argument("--sample_share", type=float, default=0.75, help="of the training frames that are fitted on")
    parser.add_argument("--iterations", type=int, default=100, help="of our k-means; 100 is what `ser kmeans` does")
    parser.add_argument("--threads", type=int, default=2, help="processor threads")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        result = measure(Path(folder), arguments)
    print(result)
    record(result, ("torch", "scikit-learn", "faiss-cpu"))


def measure(folder: Path, arguments: argparse.Namespace) -> str:
    """Run both sides in `folder`."""
    synth(str(folder / "corpus"), speakers=arguments.speakers, utterances=10)
    data = PseudoLabelData(str(folder / "corpus"), fit_splits=["train", "validation", "test1"])
    teacher = RandomTeacher(HubertEncoder(), teacher_layer=1)
    timed = TimedFit()
    kmeans(
        data,
        teacher,
        out=str(folder / "ours"),
        num_clusters=arguments.clusters,
        sample_share=arguments.sample_share,
        iterations=arguments.iterations,
        accelerator="cpu",
    )
    frames = dump(teacher, data, folder / "theirs.npy")
    sample, ours_seconds = timed.frames, timed.seconds
    started = time.perf_counter()
    theirs = MiniBatchKMeans(n_clusters=arguments.clusters, random_state=0, **FAIRSEQ).fit(sample)
    theirs_seconds = time.perf_counter() - started
    codebook = Codebook.load(folder / "ours" / "codebook.safetensors")
    assert sum(len(PseudoLabels.load(folder / "ours")[u.utterance_id]) for u in data.utterances) == len(frames)
    own, other = inertia(frames, codebook.centroids), inertia(frames, theirs.cluster_centers_.astype(np.float32))
    disk = [size(folder / "ours"), size(folder / "theirs.npy")]
    return (
        f"disk 1/{disk[1] / disk[0]:.0f} ({disk[0] / 2**20:.2f} MiB, dump {disk[1] / 2**20:.0f} MiB); fit "
        f"{theirs_seconds / ours_seconds:.1f} x faster ({ours_seconds:.1f} s, MiniBatchKMeans with fairseq's settings "
        f"{theirs_seconds:.1f} s); inertia {own / other - 1:+.2%} of its; {len(frames)} frames of {frames.shape[1]}, "
        f"{len(sample)} fitted on, {arguments.clusters} clusters, {arguments.threads} threads"
    )


class TimedFit:
    """Times `Codebook.fit` and keeps the frames it was given."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.frames = np.empty((0, 0), dtype=np.float32)
        fit = Codebook.fit.__func__  # type: ignore[attr-defined]

        def timed(kind: type[Codebook], frames: np.ndarray, *settings: int) -> Codebook:
            started = time.perf_counter()
            codebook: Codebook = fit(kind, frames, *settings)
            self.seconds, self.frames = time.perf_counter() - started, frames
            return codebook

        Codebook.fit = classmethod(timed)  # type: ignore[method-assign,assignment]


@torch.inference_mode()
def dump(teacher: EncoderTeacher, data: PseudoLabelData, path: Path) -> np.ndarray:
    """Write all features as float32; -> them, mapped."""
    parts = []
    for batch in data.predict_loader(data.batches()):
        output = teacher.eval()(batch["waveforms"], batch["num_samples"])
        parts.append(output.frames[output.frame_mask].numpy())
    np.save(path, np.concatenate(parts))
    mapped: np.ndarray = np.load(path, mmap_mode="r")
    return mapped


def inertia(frames: np.ndarray, centroids: np.ndarray) -> float:
    """Mean square distance to the nearest centroid."""
    wanted = torch.from_numpy(centroids)
    nearest = [torch.cdist(torch.tensor(part), wanted).amin(1).square() for part in np.array_split(frames, 20)]
    return float(torch.cat(nearest).double().mean())


def size(path: Path) -> int:
    """Bytes of a file, or of all files in a folder but the codebook, which both sides have."""
    return sum(
        file.stat().st_size for file in ([path] if path.is_file() else path.iterdir()) if file.stem != "codebook"
    )


if __name__ == "__main__":
    main()
