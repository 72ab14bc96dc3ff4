from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from command_line import on_two_ranks
from torch import distributed

from ser_personal.finetune.metrics import ConcordanceMetric, speaker_key
from ser_personal.scores import score

ATTRIBUTES = ("arousal", "valence")


def some_rows(num=60):
    rng = np.random.default_rng(5)
    labels = rng.uniform(1, 7, (num, 2)).astype(np.float32)
    labels[::9, 0] = np.nan
    speaker_ids = [None if s == 3 else f"speaker {s}" for s in rng.integers(0, 4, num)]
    return rng.normal(4, 1, (num, 2)).astype(np.float32), labels, speaker_ids


def batch(rows, indices):
    predictions, labels, speaker_ids = rows
    return {
        "indices": torch.tensor(indices),
        "speaker_ids": [speaker_ids[i] for i in indices],
        "pooled": torch.zeros(len(indices), 4),
        "predictions": torch.from_numpy(predictions[indices]),
        "labels": torch.from_numpy(labels[indices]),
    }


def assert_scores_of(flat, rows):
    expected = score(*rows, ATTRIBUTES, min_utterances=5)
    for attribute, of in expected.items():
        for name in ("overall_ccc", "average_ccc", "average_ccc_std", "speakers", "utterances"):
            assert flat[f"{attribute}_{name}"] == pytest.approx(getattr(of, name), abs=1e-12), (attribute, name)


def test_batches_and_repeats_score_as_the_whole_set_once():
    rows = some_rows()
    metric = ConcordanceMetric(ATTRIBUTES, min_utterances=5)
    for indices in (list(range(40)), list(range(30, 60)), [0, 0, 0, 59]):
        metric.update(batch(rows, indices))
    assert_scores_of(metric.compute(), rows)


def test_reset_forgets_and_nothing_seen_is_nan():
    metric = ConcordanceMetric(ATTRIBUTES)
    metric.update(batch(some_rows(), [0, 1, 2]))
    metric.reset()
    with pytest.warns(UserWarning, match="before the ``update``"):
        flat = metric.compute()
    assert math.isnan(flat["arousal_overall_ccc"])
    assert flat["arousal_utterances"] == 0


def test_half_precision_predictions_are_taken():
    metric, rows = ConcordanceMetric(ATTRIBUTES), some_rows()
    predictions = torch.from_numpy(rows[0]).bfloat16()
    metric.update(batch(rows, list(range(60))) | {"predictions": predictions})
    expected = score(predictions.double().numpy(), rows[1], rows[2], ATTRIBUTES)
    assert metric.compute()["valence_overall_ccc"] == pytest.approx(expected["valence"].overall_ccc, abs=1e-12)


def test_speaker_keys_are_pinned_and_none_has_its_own():
    assert speaker_key("1") == 0x7B7E2101CFDD1BBB  # b2sum -l 64, without its last bit
    assert speaker_key(None) == -1
    assert len({speaker_key(str(i)) for i in range(1000)} | {speaker_key("")}) == 1001
    assert all(0 <= speaker_key(str(i)) < 2**63 for i in range(1000))


UNEVEN_WITH_REPEATS = [[list(range(20)), list(range(20, 37))], [list(range(37, 60)), [0, 1]]]
ONE_WITHOUT_A_BATCH = [[list(range(60))], []]


def _evaluate(rank, folder):
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    metric = ConcordanceMetric(ATTRIBUTES, min_utterances=5)
    for number, shares in enumerate((UNEVEN_WITH_REPEATS, ONE_WITHOUT_A_BATCH)):
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
        assert_scores_of(json.loads(file.read_text()), some_rows())
