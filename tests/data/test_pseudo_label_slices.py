from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_teacher import energy_labels

from ser_personal.audio import SAMPLE_RATE
from ser_personal.data.batching import ExampleKey
from ser_personal.data.dataset import PretrainDataset
from ser_personal.types import Utterance


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("slices") / "u.wav"


@settings(max_examples=200)
@given(
    samples=st.integers(400, 12_000),
    most=st.integers(400, 12_000),
    epoch=st.integers(0, 50),
    seed=st.integers(0, 2**31),
)
def test_a_crops_pseudo_labels_are_those_that_the_teacher_gives_the_crop(path, samples, most, epoch, seed):
    waveform = np.random.default_rng(seed).uniform(-0.5, 0.5, samples).astype(np.float32)
    soundfile.write(path, waveform, SAMPLE_RATE, subtype="FLOAT")
    utterance = Utterance("u", path, "train", seconds=samples / SAMPLE_RATE)
    whole = {"u": energy_labels(waveform)}
    example = PretrainDataset([utterance], whole, max_samples=most, seed=seed)[ExampleKey(0, epoch)]
    np.testing.assert_array_equal(example.pseudo_labels, energy_labels(example.waveform))
