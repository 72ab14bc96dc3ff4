"""Padding of our batches against batches in random order, at MSP-Podcast's durations.

    python benchmarks/padding.py

Both sides fill batches up to the same budget of padded seconds; an utterance lasts 2.75 to 11 s, most of them near 5.
"""

from __future__ import annotations

import argparse

import numpy as np
from record import record

from ser_personal.audio import SAMPLE_RATE
from ser_personal.data.resumable_loader import BucketBatchSampler


def main() -> None:
    """Count both sides' padding over an epoch, print and record it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--utterances", type=int, default=90_000, help="about MSP-Podcast's training set")
    parser.add_argument("--batch_seconds", type=float, default=200.0, help="of a batch, padding included")
    parser.add_argument("--epochs", type=int, default=3, help="of ours, the worst of which counts")
    arguments = parser.parse_args()
    seconds = 2.75 + 8.25 * np.random.default_rng(0).beta(1.3, 2.6, arguments.utterances)
    num_samples = (seconds * SAMPLE_RATE).astype(np.int64)
    sampler = BucketBatchSampler(
        range(len(num_samples)), num_samples.tolist(), batch_seconds=arguments.batch_seconds, shuffle=True
    )
    ours = max(padding(sampler.plan(epoch), num_samples) for epoch in range(arguments.epochs))
    random = padding(in_random_order(num_samples, arguments.batch_seconds), num_samples)
    result = (
        f"{ours:.1%} padding, {random:.1%} in random order: {random / ours:.0f} x less; "
        f"{arguments.utterances} utterances, {arguments.batch_seconds:g} s a batch, the worst "
        f"of {arguments.epochs} epochs"
    )
    print(result)
    record(result, ("numpy",))


def in_random_order(num_samples: np.ndarray, batch_seconds: float) -> list[list[int]]:
    """Fill batches in random order, each up to the budget."""
    batches: list[list[int]] = [[]]
    longest = 0
    for index in np.random.default_rng(0).permutation(len(num_samples)).tolist():
        longest = max(longest, num_samples[index])
        if longest * (len(batches[-1]) + 1) > batch_seconds * SAMPLE_RATE:
            batches.append([])
            longest = num_samples[index]
        batches[-1].append(index)
    return batches


def padding(batches: list[list[int]], num_samples: np.ndarray) -> float:
    """Share of the batches' audio that is no speech."""
    assert sum(map(len, batches)) == len(num_samples)
    return float(1 - num_samples.sum() / sum(len(batch) * num_samples[batch].max() for batch in batches))


if __name__ == "__main__":
    main()
