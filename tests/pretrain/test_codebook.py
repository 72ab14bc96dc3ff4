import numpy as np
import pytest
import torch

from ser_personal.pretrain.codebook import Codebook, FrameSample, nearest_centroid


def test_fit_uses_every_frame_and_is_repeated_by_its_seed():
    # faiss alone would draw 256 of these frames, and miss the mean
    frames = np.random.default_rng(0).normal(size=(5000, 2)).astype(np.float32)
    codebook = Codebook.fit(frames, 1, iterations=2, restarts=1, seed=0)
    np.testing.assert_allclose(codebook.centroids[0], frames.mean(0), atol=1e-5)
    first, again, other = (Codebook.fit(frames, 16, 10, 1, seed) for seed in (0, 0, 1))
    assert first.hash == again.hash != other.hash


def test_nearest_centroid_is_that_of_a_slow_search_under_autocast_too():
    torch.manual_seed(0)
    # close to each other and far from 0: bfloat16 has 3 digits
    frames, centroids = 100 + torch.randn(83, 6), 100 + torch.randn(11, 6)
    slow = [int(((centroids - frame) ** 2).sum(1).argmin()) for frame in frames]
    assert nearest_centroid(frames, centroids).tolist() == slow
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert nearest_centroid(frames, centroids).tolist() == slow


def clips(count: int, seed: int = 0) -> list[np.ndarray]:
    """Clips whose every frame holds its own (utterance, position)."""
    lengths = np.random.default_rng(seed).integers(0, 90, count)
    return [np.stack([np.full(n, i), np.arange(n)], axis=1).astype(np.float32) for i, n in enumerate(lengths)]


def sample_of(corpus, share, capacity, order, seed=0):
    sample = FrameSample({number: len(frames) for number, frames in enumerate(corpus)}, share, capacity, seed)
    sample.take({number: torch.from_numpy(corpus[number]) for number in order})
    return sample


def slow_sample(corpus, share, capacity, seed):
    """Every frame's key at once, then the smallest of them."""
    keyed = []
    for number, frames in enumerate(corpus):
        keys = np.random.default_rng([seed, number]).random(len(frames))
        keyed += [(key, number, position) for position, key in enumerate(keys) if key < share]
    return sorted(origin for _, *origin in sorted(keyed)[:capacity])


@pytest.mark.parametrize(("share", "capacity"), [(0.1, 100_000), (0.1, 300), (1.0, 7)])
def test_the_frames_with_the_smallest_keys_are_drawn_and_held_in_corpus_order(share, capacity):
    corpus, shuffled = clips(400), np.random.default_rng(1).permutation(400).tolist()
    sample = sample_of(corpus, share, capacity, shuffled, seed=5)
    np.testing.assert_array_equal(sample.frames, slow_sample(corpus, share, capacity, 5))
    assert len(FrameSample({}, 0.1, 10, seed=0).frames) == len(FrameSample({3: 0}, 0.1, 10, seed=0).frames) == 0


def test_samples_of_several_processes_are_that_of_one(tmp_path):
    corpus = clips(200)
    alone = sample_of(corpus, 0.3, 800, range(200))
    paths = [tmp_path / str(rank) for rank in range(4)]
    # the last process has seen nothing
    samples = [sample_of(corpus, 0.3, 800, range(rank, 200 if rank < 3 else 0, 3)) for rank in range(4)]
    for sample, path in zip(samples, paths, strict=True):
        sample.save(path)
    samples[0].merge(paths[1:])
    np.testing.assert_array_equal(samples[0].frames, alone.frames)
