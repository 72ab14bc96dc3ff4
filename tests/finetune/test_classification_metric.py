from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from command_line import on_two_ranks
from torch import distributed

from ser_personal.finetune.metrics import ClassificationMetric

EMOTIONS = 4


def some_rows(num=60):
    """Probabilities, and labels without emotion 3, some missing."""
    rng = np.random.default_rng(5)
    emotions = rng.integers(0, 3, num)
    emotions[::9] = -1
    probabilities = rng.dirichlet(np.ones(EMOTIONS), num)
    probabilities[np.arange(num), emotions.clip(0)] += 0.3
    return probabilities.astype(np.float32), emotions


def batch(rows, indices):
    probabilities, emotions = rows
    labels = torch.eye(EMOTIONS)[emotions[indices]]
    labels[torch.from_numpy(emotions[indices] == -1)] = torch.nan
    return {
        "indices": torch.tensor(indices, dtype=torch.int64),
        "predictions": torch.from_numpy(probabilities[indices]),
        "labels": labels,
    }


def by_hand(rows):
    """Recall and F1 of each emotion that occurs, by counting."""
    probabilities, emotions = rows
    pairs = [(truth, guess) for truth, guess in zip(emotions, probabilities.argmax(1), strict=True) if truth >= 0]
    recalls, f1, support = [], [], []
    for emotion in sorted({truth for truth, _ in pairs}):
        hits = sum(truth == guess == emotion for truth, guess in pairs)
        misses = sum(truth == emotion != guess for truth, guess in pairs)
        false_alarms = sum(guess == emotion != truth for truth, guess in pairs)
        recalls.append(hits / (hits + misses))
        f1.append(2 * hits / (2 * hits + misses + false_alarms))
        support.append(hits + misses)
    return {
        "macro_f1": np.mean(f1),
        "weighted_f1": np.average(f1, weights=support),
        "uar": np.mean(recalls),
        "utterances": len(pairs),
    }


def test_batches_and_repeats_score_as_the_whole_set_once():
    metric, rows = ClassificationMetric(), some_rows()
    for indices in (list(range(40)), list(range(30, 60)), [0, 0, 59]):
        metric.update(batch(rows, indices))
    assert metric.compute() == pytest.approx(by_hand(rows), abs=1e-6)
    assert len(set(by_hand(rows).values())) == 4


def test_without_any_label_nothing_is_defined():
    metric, (probabilities, emotions) = ClassificationMetric(), some_rows()
    metric.update(batch((probabilities, np.full_like(emotions, -1)), [0, 1]))
    scores = metric.compute()
    assert math.isnan(scores["uar"])
    assert scores["utterances"] == 0


SHARES = [[[list(range(20)), list(range(20, 37))], [list(range(37, 60)), [0, 1]]], [[list(range(60))], []]]


def _evaluate(rank, folder):
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    metric = ClassificationMetric()
    for number, shares in enumerate(SHARES):
        for indices in shares[rank]:
            metric.update(batch(some_rows(), indices))
        (folder / f"{number}-{rank}.json").write_text(json.dumps(metric.compute()))
        metric.reset()
    distributed.destroy_process_group()


def test_two_processes_score_as_one(tmp_path):
    on_two_ranks(_evaluate, tmp_path)
    found = sorted(tmp_path.glob("*.json"))
    assert len(found) == 4
    for file in found:
        assert json.loads(file.read_text()) == pytest.approx(by_hand(some_rows()), abs=1e-6)
