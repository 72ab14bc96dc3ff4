from dataclasses import replace
from pathlib import Path

import numpy as np
import soundfile
from garbage import refused
from hypothesis import given
from hypothesis import strategies as st

from ser_personal.audio import SAMPLE_RATE, num_frames
from ser_personal.data.dataset import PretrainDataset, WholeUtterances, collate, crop_start
from ser_personal.data.frame_store import PseudoLabels
from ser_personal.data.resumable_loader import ExampleKey
from ser_personal.types import Utterance

SAMPLES = st.integers(400, 12_000)


@given(samples=SAMPLES, most=SAMPLES, epoch=st.integers(0, 50), seed=st.integers(0, 2**31))
def test_a_crops_labels_are_those_the_teacher_gives_it(tmp_path_factory, energy_labels, samples, most, epoch, seed):
    noise_path = tmp_path_factory.getbasetemp() / "crops.wav"
    waveform = np.random.default_rng(seed).uniform(-0.5, 0.5, samples).astype(np.float32)
    soundfile.write(noise_path, waveform, SAMPLE_RATE, subtype="FLOAT")
    utterance = Utterance("u", noise_path, "train", seconds=samples / SAMPLE_RATE)
    whole = {"u": energy_labels(waveform)}
    example = PretrainDataset([utterance], whole, max_samples=most, seed=seed)[ExampleKey(0, epoch)]
    start = crop_start(utterance, most, seed=seed, epoch=epoch)
    np.testing.assert_array_equal(example.waveform, waveform[start : start + most])
    np.testing.assert_array_equal(example.pseudo_labels, energy_labels(example.waveform))


def test_a_segment_from_half_a_sample_on_ends_with_its_file(tmp_path):
    waveform = np.random.default_rng(0).uniform(-0.5, 0.5, 4000).astype(np.float32)
    soundfile.write(tmp_path / "u.wav", waveform, SAMPLE_RATE, subtype="FLOAT")
    start = 1001 / (2 * SAMPLE_RATE)
    segment = Utterance("u", tmp_path / "u.wav", "train", start=start, seconds=4000 / SAMPLE_RATE - start)
    example = WholeUtterances([segment], max_samples=10_000)[ExampleKey(0, 0)]
    np.testing.assert_array_equal(example.waveform, waveform[round(start * SAMPLE_RATE) :])


def test_crops_start_on_frames_everywhere_they_fit():
    utterance = Utterance("u", Path("u.wav"), "train", seconds=(10_000 + 3 * 320 + 50) / 16_000)
    assert {crop_start(utterance, 10_000, seed=0, epoch=epoch) for epoch in range(100)} == {0, 320, 640, 960}


def test_fine_tuning_keeps_the_last_samples_and_missing_labels_are_nan(corpus):
    dataset = WholeUtterances(corpus.utterances, max_samples=9_000)
    examples = [dataset[ExampleKey(index, epoch=3)] for index in (0, 20, 25)]
    for example in examples:
        sound, _ = soundfile.read(corpus.utterances[example.index].path, dtype="float32")
        np.testing.assert_array_equal(example.waveform, sound[-9_000:])
    expected = [[1, np.nan, np.nan], [7, np.nan, np.nan], [np.nan] * 3]
    np.testing.assert_array_equal(collate(examples)["labels"], np.float32(expected))


def test_batch_is_padded_at_the_end(corpus, pseudo_labels_folder):
    dataset = PretrainDataset(corpus.utterances, PseudoLabels.load(pseudo_labels_folder))
    examples = [dataset[ExampleKey(index)] for index in (2, 24, 0)]
    batch = collate(examples)
    assert (batch["speaker_ids"], batch["indices"].tolist()) == (["s2", None, "s0"], [2, 24, 0])
    assert batch["num_samples"].tolist() == [len(example.waveform) for example in examples]
    for row, example in enumerate(examples):
        samples, frames = len(example.waveform), num_frames(len(example.waveform))
        np.testing.assert_array_equal(batch["waveforms"][row, :samples], example.waveform)
        assert not batch["waveforms"][row, samples:].any()
        np.testing.assert_array_equal(batch["pseudo_labels"][row, :frames], example.pseudo_labels)
        assert (batch["pseudo_labels"][row, frames:] == -100).all()


def test_pseudo_labels_and_audio_of_another_version(corpus, pseudo_labels_folder):
    labels = PseudoLabels.load(pseudo_labels_folder)
    labels.check(corpus.utterances)
    other = [*corpus.utterances, replace(corpus.utterances[0], utterance_id="new")]
    refused(r"no pseudo-labels of 1 of 35 utterances, new the first.*ser kmeans", labels.check, other)
    longer = replace(corpus.utterances[0], seconds=corpus.utterances[0].seconds + 0.02)
    refused("24 pseudo-labels for the 25 frames of u00", labels.check, [longer])
    examples = WholeUtterances([longer], max_samples=250_000)
    refused(r"u00\.wav: audio ends 320 samples before", examples.__getitem__, ExampleKey(0))
