from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import emotion_data, trainer

from ser_personal.calibration.collect import Collector, bank_fingerprint, predict_split
from ser_personal.finetune.module import EmotionFineTuning
from ser_personal.types import Utterance

UTTERANCES = [Utterance(f"u{i}", Path(), "test1", speaker_id=None if i % 4 == 3 else f"s{i % 4}") for i in range(40)]


def batch(indices):
    """A batch whose every value identifies its utterance."""
    rows = torch.tensor(indices)
    return {
        "indices": rows,
        "speaker_ids": [UTTERANCES[index].speaker_id for index in indices],
        "pooled": rows[:, None] + torch.arange(3) / 4,
        "predictions": (rows[:, None] + torch.arange(2) / 2).bfloat16().float(),
        "labels": torch.where(rows[:, None] % 5 == 0, torch.nan, rows[:, None].double()),
    }


def joined(batches, trainer_):
    collector = Collector()
    for indices in batches:
        collector.add(batch(indices))
    return collector.join(trainer_, UTTERANCES)


def check(collected, indices):
    expected = batch(sorted(indices))
    assert collected.indices.tolist() == sorted(indices)
    assert collected.predicted.speaker_ids == tuple(expected["speaker_ids"])
    for name in ("pooled", "predictions", "labels"):
        array = getattr(collected.predicted, name)
        assert array.dtype == np.float64
        np.testing.assert_array_equal(array, expected[name].double().numpy())


@given(order=st.permutations(range(10)), cut=st.integers(1, 9), repeated=st.lists(st.integers(0, 9), min_size=1))
def test_one_device_gives_each_utterance_once_in_order(order, cut, repeated):
    alone = SimpleNamespace(world_size=1, is_global_zero=True)
    check(joined([order[:cut], order[cut:], repeated], alone), range(10))


def devices(world_size, folder):
    """Trainers of several processes, here threads."""
    barrier, sent = threading.Barrier(world_size, timeout=20), {}

    def broadcast_by(rank):
        def broadcast(value):
            sent[rank] = value
            barrier.wait()
            return sent[0]

        return broadcast

    return [
        SimpleNamespace(
            world_size=world_size,
            global_rank=rank,
            is_global_zero=rank == 0,
            strategy=SimpleNamespace(broadcast=broadcast_by(rank), barrier=lambda _name: barrier.wait()),
            default_root_dir=str(folder),
        )
        for rank in range(world_size)
    ]


def test_several_devices_are_joined_on_the_first(tmp_path):
    # the last device has nothing
    dealt = [[[39, 2], [7, 30]], [[0, 1], [39, 2]], [[20]], []]
    with ThreadPoolExecutor(4) as threads:
        first, *others = threads.map(joined, dealt, devices(4, tmp_path))
    check(first, [0, 1, 2, 7, 20, 30, 39])
    assert others == [None, None, None]
    assert not list(tmp_path.iterdir())


def test_a_collector_is_empty_after_a_join(tmp_path):
    collector, alone = Collector(), SimpleNamespace(world_size=1, is_global_zero=True)
    for indices in ([3, 1], [2]):
        collector.add(batch(indices))
        check(collector.join(alone, UTTERANCES), indices)


def test_predict_split_is_the_trainers_own_prediction(synthetic_corpus, finetuned_checkpoint, tmp_path):
    data = emotion_data(synthetic_corpus)
    module = EmotionFineTuning.load_from_checkpoint(finetuned_checkpoint).eval()
    running = trainer(tmp_path)
    expected = running.predict(module, datamodule=data)
    with torch.no_grad():
        predicted = list(predict_split(running, module, "test1"))
    for mine, theirs in zip(predicted, expected, strict=True):
        for name in ("indices", "pooled", "predictions", "labels"):
            assert torch.equal(mine[name], theirs[name])


TRAINING = [
    Utterance(name, Path(name), "train", speaker_id="s1", labels={"arousal": 4.0, "valence": float("nan")})
    for name in ("a", "b")
]


SETTINGS = ("mean", False)


def weights():
    torch.manual_seed(0)
    return {
        "linear": torch.randn(3, 4),
        "half": torch.randn(2).bfloat16(),
        "scalar": torch.tensor(1.5),
        "count": torch.tensor(7),
        "turned": torch.randn(4, 3).T,
    }


@pytest.fixture
def reference():
    return bank_fingerprint(weights(), SETTINGS, TRAINING)


def test_equal_models_and_training_sets_are_equal(reference):
    assert bank_fingerprint(weights(), SETTINGS, list(TRAINING)) == reference
    assert len(reference) == 32
    assert int(reference, 16)


@pytest.mark.parametrize("name", list(weights()))
def test_one_bit_of_any_weight_counts(reference, name):
    changed = weights()
    raw = changed[name].contiguous().reshape(-1).view(torch.uint8)
    raw[0] ^= 1
    changed[name] = raw.view(changed[name].dtype).reshape(changed[name].shape)
    assert bank_fingerprint(changed, SETTINGS, TRAINING) != reference


@pytest.mark.parametrize(
    "change",
    [
        {"utterance_id": "c"},
        {"speaker_id": "s2"},
        {"speaker_id": None},
        {"labels": {"arousal": 4.5, "valence": float("nan")}},
        {"labels": {"arousal": 4.0, "valence": 4.0}},
    ],
)
def test_what_a_bank_takes_from_the_training_set_counts(reference, change):
    first, second = TRAINING
    assert bank_fingerprint(weights(), SETTINGS, [first, replace(second, **change)]) != reference
    assert bank_fingerprint(weights(), SETTINGS, [first]) != reference


def test_names_of_weights_and_settings_count_and_paths_do_not(reference):
    renamed = {f"{name}_": weight for name, weight in weights().items()}
    assert bank_fingerprint(renamed, SETTINGS, TRAINING) != reference
    assert bank_fingerprint(weights(), ("mean", True), TRAINING) != reference
    moved = [replace(utterance, path=Path("elsewhere")) for utterance in TRAINING]
    assert bank_fingerprint(weights(), SETTINGS, moved) == reference
