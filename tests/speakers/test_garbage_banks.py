from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from garbage import files, is_read_or_refused, many_inputs
from hypothesis import given

from ser_personal.speakers.bank import SpeakerBank


def bank_bytes() -> bytes:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "bank.safetensors"
        SpeakerBank.from_utterances(["a", "b"], np.eye(2), np.ones((2, 1)), ("arousal",)).save(path)
        return path.read_bytes()


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("garbage") / "bank.safetensors"


def test_what_is_spoilt_below_can_be_read_whole(path):
    path.write_bytes(bank_bytes())
    assert SpeakerBank.load(path).speaker_ids == ("a", "b")


@many_inputs
@given(content=files(bank_bytes()))
def test_garbage_as_a_speaker_bank(path, content):
    path.write_bytes(content)
    is_read_or_refused(lambda: SpeakerBank.load(path))
