from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import numpy as np
import pytest
import soundfile
import torch
import torchaudio
from hypothesis import given
from hypothesis import strategies as st
from transformers import HubertConfig, Wav2Vec2FeatureExtractor
from transformers.models.hubert.modeling_hubert import HubertFeatureEncoder

from ser_personal.audio import SAMPLE_RATE, decode, normalize, num_frames, num_samples_of, resample
from ser_personal.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

FORMATS = ("wav", "flac", "ogg", "mp3")


def write_noise(path: Path, num_samples: int, rate: int = SAMPLE_RATE, channels: int = 1) -> Path:
    samples = np.random.default_rng(0).uniform(-0.3, 0.3, (num_samples, channels))
    soundfile.write(path, samples, rate)
    return path


@pytest.fixture(scope="module")
def convolutions() -> HubertFeatureEncoder:
    return HubertFeatureEncoder(HubertConfig(conv_dim=[1] * 7))


@pytest.fixture(scope="module")
def shapes() -> HubertFeatureEncoder:
    """The convolutions without their numbers."""
    return HubertFeatureEncoder(HubertConfig(conv_dim=[1] * 7)).to("meta")


@pytest.mark.parametrize(
    "num_samples", [400, 401, 719, 720, 721, 1039, 1040, 5000, *range(16_000, 16_321, 64), 47_999, 250_000]
)
def test_frames_are_as_many_as_the_convolutions_of_hubert_make(convolutions, num_samples):
    with torch.no_grad():
        assert num_frames(num_samples) == convolutions(torch.zeros(1, num_samples)).shape[2]


@given(num_samples=st.integers(400, 10**7))
def test_frames_of_any_length_are_as_many_as_the_convolutions_make(shapes, num_samples):
    assert num_frames(num_samples) == shapes(torch.empty(1, num_samples, device="meta")).shape[-1]


@pytest.mark.parametrize("num_samples", [0, 1, 79, 80, 399])
def test_too_short_audio_has_no_frames(num_samples):
    assert num_frames(num_samples) == 0
    assert num_frames(torch.tensor([num_samples])).tolist() == [0]


@given(st.lists(st.integers(0, 10**6), min_size=1))
def test_a_tensor_of_lengths_is_counted_as_each_length_is(lengths):
    frames = num_frames(torch.tensor(lengths))
    assert frames.dtype == torch.long
    assert frames.tolist() == [num_frames(length) for length in lengths]


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_a_part_equals_that_part_of_the_whole(tmp_path, suffix, rate):
    path = write_noise(tmp_path / f"a.{suffix}", 2 * rate, rate, channels=2)
    whole = decode(path)
    assert whole.dtype == np.float32
    assert len(whole) == num_samples_of(path) == 2 * SAMPLE_RATE
    for start, length in [
        (0, 320),
        (320, 6400),
        (6401, 1),
        (12_800, 19_200),
        (31_000, 5000),
        (32_000, 10),
        (40_000, 1),
    ]:
        np.testing.assert_array_equal(decode(path, start, length), whole[start : start + length])
    np.testing.assert_array_equal(decode(path, 777), whole[777:])


def test_whole_file_is_what_was_written(tmp_path):
    path = write_noise(tmp_path / "a.wav", 1000)
    np.testing.assert_array_equal(decode(path), soundfile.read(path, dtype="float32")[0])


def test_stereo_is_averaged_and_resampled_as_torchaudio_does(tmp_path):
    path = write_noise(tmp_path / "a.wav", 44_100, 44_100, channels=2)
    left, right = soundfile.read(path, dtype="float32")[0].T
    by_hand = torchaudio.functional.resample(torch.from_numpy((left + right) / 2), 44_100, SAMPLE_RATE)
    np.testing.assert_allclose(decode(path), by_hand.numpy(), atol=1e-6)


@pytest.mark.parametrize("rate", [8000, 11_025, 15_900, 44_100, 48_000])
@pytest.mark.parametrize("seconds", [0.9, 2, 4.3])
def test_resampling_in_blocks_is_resampling_as_one_piece(rate, seconds, monkeypatch):
    monkeypatch.setattr("ser_personal.audio.RESAMPLED_SECONDS", 1)
    waveform = np.random.default_rng(0).normal(size=int(rate * seconds)).astype(np.float32)
    whole = torchaudio.functional.resample(torch.from_numpy(waveform), rate, SAMPLE_RATE).numpy()
    np.testing.assert_allclose(resample(waveform, rate)[: len(whole)], whole, atol=1e-5)


@pytest.mark.parametrize("rate", [8000, 11_025, 22_050, 44_100, 48_000])
@pytest.mark.parametrize("num_samples", [0, 1, 185_221, 400_003])
def test_header_tells_the_length_after_resampling(tmp_path, rate, num_samples):
    path = write_noise(tmp_path / "a.wav", num_samples, rate)
    assert len(decode(path)) == num_samples_of(path) == -(-num_samples * SAMPLE_RATE // rate)


def test_no_sample_is_lost_where_torchaudio_rounds_the_length(tmp_path):
    # 160/441 of it is 1/441 above an integer, which float32 can't hold at that size
    num_samples = next(n for n in range(185_000, 190_000) if n * 160 % 441 == 1)
    path = write_noise(tmp_path / "a.wav", num_samples, 44_100)
    by_torchaudio = torchaudio.functional.resample(torch.from_numpy(soundfile.read(path)[0]), 44_100, SAMPLE_RATE)
    assert len(decode(path)) == len(by_torchaudio) + 1


@pytest.mark.parametrize("read", [decode, num_samples_of])
def test_unreadable_files_are_one_line(tmp_path, read):
    with pytest.raises(UserError, match=r"missing\.wav: no such audio file\. .*ser check"):
        read(tmp_path / "missing.wav")
    for name, content in [("empty.wav", b""), ("text.wav", b"no sound"), ("cut.flac", b"fLaC\x00\x00")]:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=rf"{name}: can't be decoded") as caught:
            read(tmp_path / name)
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="isn't a file"):
        read(tmp_path)


def test_a_reason_is_without_the_path(tmp_path, monkeypatch):
    def refused(path):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr("ser_personal.audio.is_truncated", refused)
    (tmp_path / "anna.wav").write_bytes(b"RIFF")
    with pytest.raises(UserError) as caught:
        decode(tmp_path / "anna.wav")
    assert caught.value.what == "can't be decoded (Permission denied)"


@given(lengths=st.lists(st.integers(400, 2000), min_size=1, max_size=4), seed=st.integers(0, 2**31))
def test_normalize_is_the_preprocessing_of_hubert_large(lengths, seed):
    rng = np.random.default_rng(seed)
    clips = [rng.normal(rng.normal(), rng.uniform(0.1, 2), length).astype(np.float32) for length in lengths]
    wanted = Wav2Vec2FeatureExtractor(do_normalize=True)(
        clips, sampling_rate=SAMPLE_RATE, padding=True, return_attention_mask=True, return_tensors="pt"
    ).input_values
    # what stands in the padding must not matter
    padded = torch.full(wanted.shape, 9.0)
    for row, clip in enumerate(clips):
        padded[row, : len(clip)] = torch.from_numpy(clip)
    torch.testing.assert_close(normalize(padded, torch.tensor(lengths)), wanted, atol=1e-4, rtol=1e-4)


def test_silence_normalizes_to_silence():
    assert normalize(torch.full((1, 500), 0.25), torch.tensor([500])).abs().max() < 1e-3


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf, 2e6, -2e6])
@pytest.mark.parametrize("rate", [16_000, 8_000])
def test_samples_that_are_no_sound(tmp_path, wrong, rate):
    samples = np.full(2000, 0.1)
    samples[1500] = wrong
    soundfile.write(tmp_path / "a.wav", samples, rate, subtype="FLOAT")
    with pytest.raises(UserError, match=r"a\.wav: holds NaN, infinity or samples above 1e\+06"):
        decode(tmp_path / "a.wav")


def test_samples_may_be_integers_in_a_file_of_floats(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.full(1000, 32_768.0), 16_000, subtype="FLOAT")
    assert decode(tmp_path / "a.wav").max() == 32_768


@pytest.mark.parametrize("subtype", ["PCM_16", "FLOAT"])
def test_a_truncated_wav_is_refused_as_a_truncated_flac_is(tmp_path, subtype):
    path = tmp_path / "a.wav"
    soundfile.write(path, np.zeros(1001), 16_000, subtype=subtype)
    whole = path.read_bytes()
    for lost in (1, 500):
        path.write_bytes(whole[:-lost])
        for read in (decode, num_samples_of):
            with pytest.raises(UserError, match=r"a\.wav: is truncated.*`ser check"):
                read(path)
    # what follows the samples isn't sound
    path.write_bytes(whole + b"LIST\x10\x00\x00\x00INFO")
    assert len(decode(path)) == 1001


@pytest.mark.parametrize("announced", [0, 0x7FFFF000, 0xFFFFFFFF])
def test_a_streamed_wav_does_not_know_its_length(tmp_path, announced):
    path = write_noise(tmp_path / "a.wav", 1000)
    content = bytearray(path.read_bytes())
    size = announced.to_bytes(4, "little")
    content[4:8] = size
    place = content.index(b"data") + 4
    content[place : place + 4] = size
    path.write_bytes(content)
    # libsndfile takes 0 at its word
    assert num_samples_of(path) == len(decode(path)) == (1000 if announced else 0)
