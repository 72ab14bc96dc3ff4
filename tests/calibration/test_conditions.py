from __future__ import annotations

from pathlib import Path

import pytest

from ser_personal.calibration.run_files import condition, count_conditions
from ser_personal.types import Utterance

TRAINING = {"labelled", "labelled, not embedded"}
EMBEDDED = {"labelled", "adaptation"}


def utterance(speaker_id, split="test1", number=0):
    return Utterance(f"{speaker_id} {split} {number}", Path(), split, speaker_id=speaker_id)


@pytest.mark.parametrize(
    ("speaker_id", "pretraining_splits", "expected"),
    [
        ("labelled", ["train"], "labelled"),
        ("labelled, not embedded", [], "labelled"),
        ("adaptation", ["train", "test1_adaptation"], "adaptation"),
        ("adaptation", ["train", "test1"], "transductive"),
        ("stranger", ["train", "test1"], "transductive"),
        ("stranger", ["train"], "unseen"),
        ("stranger", [], "unseen"),
        (None, ["train"], "unseen"),
    ],
)
def test_what_training_knew_of_a_speaker(speaker_id, pretraining_splits, expected):
    assert condition(utterance(speaker_id), TRAINING, EMBEDDED, pretraining_splits) == expected


def test_speakers_are_counted_once_and_unknown_ones_not_at_all():
    speaker_ids = ["labelled", "adaptation", "adaptation", "a", "b", "b", "b", None, None]
    utterances = [utterance(speaker_id, number=number) for number, speaker_id in enumerate(speaker_ids)]
    conditions = [condition(utterance, TRAINING, EMBEDDED, ["train"]) for utterance in utterances]
    counted = count_conditions(utterances, conditions)
    assert counted == {"labelled": 1, "adaptation": 1, "unseen": 2}
