from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ser_personal.calibration.collect import bank_fingerprint
from ser_personal.types import Utterance

UTTERANCES = [
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
    return bank_fingerprint(weights(), SETTINGS, UTTERANCES)


def test_equal_models_and_training_sets_are_equal(reference):
    assert bank_fingerprint(weights(), SETTINGS, list(UTTERANCES)) == reference
    assert len(reference) == 32
    assert int(reference, 16)


@pytest.mark.parametrize("name", list(weights()))
def test_one_bit_of_any_weight_tells(reference, name):
    changed = weights()
    raw = changed[name].contiguous().reshape(-1).view(torch.uint8)
    raw[0] ^= 1
    changed[name] = raw.view(changed[name].dtype).reshape(changed[name].shape)
    assert bank_fingerprint(changed, SETTINGS, UTTERANCES) != reference


def test_names_of_weights_tell(reference):
    renamed = {f"{name}_": weight for name, weight in weights().items()}
    assert bank_fingerprint(renamed, SETTINGS, UTTERANCES) != reference


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
def test_what_a_bank_takes_from_the_training_set_tells(reference, change):
    first, second = UTTERANCES
    assert bank_fingerprint(weights(), SETTINGS, [first, replace(second, **change)]) != reference
    assert bank_fingerprint(weights(), SETTINGS, [first]) != reference


def test_where_the_audio_lies_does_not_tell(reference):
    moved = [replace(utterance, path=Path("elsewhere")) for utterance in UTTERANCES]
    assert bank_fingerprint(weights(), SETTINGS, moved) == reference


def test_settings_tell(reference):
    assert bank_fingerprint(weights(), ("mean", True), UTTERANCES) != reference
