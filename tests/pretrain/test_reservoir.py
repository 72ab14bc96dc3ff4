from __future__ import annotations

import numpy as np
import pytest

from ser_personal.pretrain.reservoir import FrameReservoir


def clips(count: int, seed: int = 0) -> list[np.ndarray]:
    """Clips whose every frame holds its own (utterance, position)."""
    lengths = np.random.default_rng(seed).integers(0, 90, count)
    return [np.stack([np.full(n, i), np.arange(n)], axis=1).astype(np.float32) for i, n in enumerate(lengths)]


def sample_of(corpus, order, share, capacity, seed=0):
    reservoir = FrameReservoir(share, capacity, seed)
    for number in order:
        reservoir.add(number, corpus[number])
    return reservoir.sample()


def slow_sample(corpus, share, capacity, seed):
    """Every frame's key at once, then the smallest of them."""
    keyed = []
    for number, frames in enumerate(corpus):
        keys = np.random.default_rng([seed, number]).random(len(frames))
        keyed += [(key, number, position) for position, key in enumerate(keys) if key < share]
    return sorted(origin for _, *origin in sorted(keyed)[:capacity])


@pytest.mark.parametrize("capacity", [7, 300, 100_000])
@pytest.mark.parametrize("share", [0.1, 1.0])
def test_keeps_the_frames_with_the_smallest_keys_in_corpus_order(capacity, share):
    corpus = clips(400)
    assert sample_of(corpus, range(400), share, capacity, seed=5).tolist() == slow_sample(corpus, share, capacity, 5)


@pytest.mark.parametrize("capacity", [50, 100_000])
def test_does_not_depend_on_the_order_of_utterances(capacity):
    corpus = clips(300)
    shuffled = np.random.default_rng(1).permutation(300).tolist()
    assert np.array_equal(sample_of(corpus, range(300), 0.4, capacity), sample_of(corpus, shuffled, 0.4, capacity))


def test_a_clip_larger_than_the_whole_reservoir_is_sampled_evenly():
    long = np.arange(40_000, dtype=np.float32)[:, None]
    kept = sample_of([long], [0], 1.0, 2000)[:, 0]
    assert len(np.unique(kept)) == 2000
    assert kept.mean() == pytest.approx(20_000, abs=1000)


def test_every_frame_has_the_same_chance():
    corpus = clips(40)
    total = sum(map(len, corpus))
    counts = np.zeros((40, 90))
    for seed in range(400):
        kept = sample_of(corpus, range(40), 1.0, total // 4, seed).astype(int)
        counts[kept[:, 0], kept[:, 1]] += 1
    chances = np.concatenate([counts[i, : len(clip)] for i, clip in enumerate(corpus)]) / 400
    assert chances.mean() == pytest.approx(0.25, abs=0.001)
    # binomial deviation of one chance over 400 draws: .0217
    assert chances.std() == pytest.approx(0.0217, abs=0.003)


def test_nothing_seen_is_nothing_kept():
    assert len(FrameReservoir(0.1, 10, 0).sample()) == 0
