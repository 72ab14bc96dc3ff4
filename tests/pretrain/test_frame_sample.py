from __future__ import annotations

import numpy as np
import pytest

from ser_personal.pretrain.codebook import FrameDraw, FrameSample


def clips(count: int, seed: int = 0) -> list[np.ndarray]:
    """Clips whose every frame holds its own (utterance, position)."""
    lengths = np.random.default_rng(seed).integers(0, 90, count)
    return [np.stack([np.full(n, i), np.arange(n)], axis=1).astype(np.float32) for i, n in enumerate(lengths)]


def draw_from(corpus, share, capacity, seed=0):
    return FrameDraw.of({number: len(frames) for number, frames in enumerate(corpus)}, share, capacity, seed)


def show(sample, corpus, order):
    for number in order:
        wanted = sample.wanted(number)
        if len(wanted):
            sample.add(number, corpus[number][wanted])
    return sample


def slow_sample(corpus, share, capacity, seed):
    """Every frame's key at once, then the smallest of them."""
    keyed = []
    for number, frames in enumerate(corpus):
        keys = np.random.default_rng([seed, number]).random(len(frames))
        keyed += [(key, number, position) for position, key in enumerate(keys) if key < share]
    return sorted(origin for _, *origin in sorted(keyed)[:capacity])


@pytest.mark.parametrize("capacity", [7, 300, 100_000])
@pytest.mark.parametrize("share", [0.1, 1.0])
def test_draws_the_frames_with_the_smallest_keys_in_corpus_order(capacity, share):
    corpus = clips(400)
    draw = draw_from(corpus, share, capacity, seed=5)
    assert np.stack([draw.utterances, draw.positions], axis=1).tolist() == slow_sample(corpus, share, capacity, 5)


@pytest.mark.parametrize("capacity", [50, 100_000])
def test_the_sample_holds_what_was_drawn_in_whatever_order_it_came(capacity):
    corpus = clips(300)
    draw = draw_from(corpus, 0.4, capacity)
    shuffled = np.random.default_rng(1).permutation(300).tolist()
    frames = show(FrameSample(draw), corpus, shuffled).held()
    np.testing.assert_array_equal(frames, np.stack([draw.utterances, draw.positions], axis=1))


def test_samples_of_several_processes_are_that_of_one(tmp_path):
    corpus = clips(200)
    draw = draw_from(corpus, 0.3, 800)
    alone = show(FrameSample(draw), corpus, range(200))
    paths = [tmp_path / str(rank) for rank in range(4)]
    # the last process has seen nothing
    samples = [show(FrameSample(draw), corpus, range(rank, 200 if rank < 3 else 0, 3)) for rank in range(4)]
    for sample, path in zip(samples, paths, strict=True):
        sample.save(path)
    samples[0].take_up(paths[1:])
    np.testing.assert_array_equal(samples[0].held(), alone.held())


def test_a_clip_larger_than_the_whole_sample_is_sampled_evenly():
    kept = FrameDraw.of({0: 40_000}, 1.0, 2000, seed=0).positions
    assert len(np.unique(kept)) == 2000
    assert kept.mean() == pytest.approx(20_000, abs=1000)


def test_every_frame_has_the_same_chance():
    corpus = clips(40)
    total = sum(map(len, corpus))
    counts = np.zeros((40, 90))
    for seed in range(400):
        draw = draw_from(corpus, 1.0, total // 4, seed)
        counts[draw.utterances, draw.positions] += 1
    chances = np.concatenate([counts[i, : len(clip)] for i, clip in enumerate(corpus)]) / 400
    assert chances.mean() == pytest.approx(0.25, abs=0.001)
    # binomial deviation of one chance over 400 draws: .0217
    assert chances.std() == pytest.approx(0.0217, abs=0.003)


def test_nothing_to_draw_from_is_nothing_drawn():
    assert len(FrameDraw.of({}, 0.1, 10, seed=0)) == 0
    assert len(FrameSample(FrameDraw.of({3: 0}, 0.1, 10, seed=0)).held()) == 0
