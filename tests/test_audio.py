import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import torchaudio
from garbage import refused
from hostile_sounds import FINE, HOSTILE, ONE, OTHER, channels, suffix
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import HubertConfig, Wav2Vec2FeatureExtractor
from transformers.models.hubert.modeling_hubert import HubertFeatureEncoder

from ser_personal import audio
from ser_personal.audio import SAMPLE_RATE, decode, decode_utterance, num_frames, read_header, resample
from ser_personal.corpus.check import examine_sound
from ser_personal.errors import UserError
from ser_personal.recognition.recordings import Recording
from ser_personal.types import Utterance

# convolutions without their numbers
SHAPES = HubertFeatureEncoder(HubertConfig(conv_dim=[1] * 7)).to("meta")


def write_noise(path: Path, num_samples: int, rate: int = SAMPLE_RATE, channels: int = 1) -> Path:
    samples = np.random.default_rng(0).uniform(-0.3, 0.3, (num_samples, channels))
    soundfile.write(path, samples, rate)
    return path


@settings(max_examples=30)
@given(num_samples=st.integers(400, 10**7))
@example(400)
@example(719)
@example(720)
@example(16_319)
def test_frames_are_as_many_as_the_convolutions_of_hubert_make(num_samples):
    assert num_frames(num_samples) == SHAPES(torch.empty(1, num_samples, device="meta")).shape[-1]


@given(st.lists(st.integers(0, 10**6), min_size=1))
def test_a_tensor_of_lengths_is_counted_as_each_length_is(lengths):
    frames = num_frames(torch.tensor(lengths))
    assert frames.dtype == torch.long
    assert frames.tolist() == [num_frames(length) for length in lengths]
    assert num_frames(0) == num_frames(399) == 0


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
@pytest.mark.parametrize(("rate", "channels"), [(16_000, 2), (44_100, 1)])
def test_a_part_equals_that_part_of_the_whole(tmp_path, suffix, rate, channels):
    path = write_noise(tmp_path / f"a.{suffix}", 2 * rate, rate, channels)
    whole = decode(path)
    assert whole.dtype == np.float32
    average = resample(soundfile.read(path, dtype="float32", always_2d=True)[0].mean(1), rate)
    np.testing.assert_allclose(whole, average, atol=1e-6)
    assert len(whole) == read_header(path).num_samples == 2 * SAMPLE_RATE
    for start, length in [(0, 320), (6401, 1), (12_800, 19_200), (31_000, 5000), (40_000, 1)]:
        np.testing.assert_allclose(decode(path, start, length), whole[start : start + length], atol=1e-6)
    np.testing.assert_allclose(decode(path, 777), whole[777:], atol=1e-6)


@pytest.mark.parametrize("suffix", ["wav", "mp3"])
def test_of_a_long_recording_a_segment_alone_is_kept(tmp_path, suffix, monkeypatch, capfd):
    path = write_noise(tmp_path / f"a.{suffix}", 10 * 44_100, 44_100, 2)
    whole = decode(path)
    kept = []
    monkeypatch.setattr("ser_personal.audio.resample", lambda wave, rate: kept.append(wave) or resample(wave, rate))
    segment = decode_utterance(Utterance("a", path, "train", start=7.0, seconds=1.0))
    np.testing.assert_allclose(segment, whole[112_000:128_000], atol=1e-6)
    assert len(kept[0]) < 1.1 * 44_100
    of_segment = decode_utterance(Utterance("a", path, "train", start=7.0, seconds=1.0), 4000, 99_999)
    np.testing.assert_allclose(of_segment, whole[116_000:128_000], atol=1e-6)
    of_all = decode_utterance(Utterance("a", path, "train"), 8000, 16_000)
    np.testing.assert_allclose(of_all, whole[8000:24_000], atol=1e-6)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("kind", ["WAV", "OGG"])
def test_of_a_call_with_a_party_a_channel_a_turn_alone_is_read(kind, tmp_path):
    call, cancelling = tmp_path / f"call.{kind.lower()}", tmp_path / "cancelling.wav"
    call.write_bytes(channels(ONE, OTHER, format=kind))
    cancelling.write_bytes(channels(ONE, -0.98 * ONE))
    # the other party is silent for half a second, and then speaks in turns with the first
    alone, both = {"start": 0.0, "seconds": 0.5}, {"start": 0.5, "seconds": 1.0}
    refused("channels that hold different voices", decode, call, 0, 8000)
    mix = soundfile.read(call)[0].mean(1)[:8000]
    np.testing.assert_allclose(decode_utterance(Utterance("a", call, "train", **alone)), mix, atol=1e-6)
    refused("channels that hold different voices", decode_utterance, Utterance("a", call, "train", **both))
    refused("cancel one another", decode_utterance, Utterance("a", cancelling, "train", **both))


@pytest.mark.parametrize("channels", [1, 2])
def test_a_silent_or_short_segment_is_refused_as_a_whole_file_is(channels, tmp_path):
    path = write_noise(tmp_path / "a.wav", 16_000, channels=channels)
    samples = soundfile.read(path, always_2d=True)[0]
    samples[:8000] = 0
    soundfile.write(path, samples, SAMPLE_RATE)
    longer = Utterance("a", path, "train", start=0.0, seconds=1.0)
    for seconds, what in ((0.5, "is silent"), (0.02, "is shorter than one frame")):
        refused(what, decode_utterance, replace(longer, seconds=seconds))
    assert not decode_utterance(longer, 0, 4000).any()
    assert len(decode_utterance(longer)) == 16_000


@pytest.mark.parametrize("rate", [8000, 15_900, 44_100])
def test_resampling_is_torchaudios(rate):
    waveform = np.random.default_rng(0).normal(size=int(rate * 1.3)).astype(np.float32)
    whole = torchaudio.functional.resample(torch.from_numpy(waveform), rate, SAMPLE_RATE).numpy()
    # whose phases are rounded to float32
    np.testing.assert_allclose(resample(waveform, rate)[: len(whole)], whole, atol=3e-4)
    # no sample is lost; torchaudio rounds the length in float32
    for num_samples in (0, 1, next(n for n in range(185_000, 190_000) if n * 160 % 441 == 1)):
        length = -(-num_samples * SAMPLE_RATE // rate)
        assert len(resample(np.zeros(num_samples, dtype=np.float32), rate)) == length
        assert audio.resampled_length(num_samples, rate) == length


@pytest.mark.parametrize("rate", [1009, 16_001, 383_993])
def test_any_rate_costs_what_its_neighbours_do(rate):
    time = np.arange(rate // 4) / rate
    wave = np.sin(2 * np.pi * 300 * time).astype(np.float32)
    tracemalloc.start()
    resampled = resample(wave, rate)
    assert tracemalloc.get_traced_memory()[1] < 400e6
    tracemalloc.stop()
    expected = np.sin(2 * np.pi * 300 * np.arange(len(resampled)) / SAMPLE_RATE)
    np.testing.assert_allclose(resampled[400:-400], expected[400:-400], atol=0.02)


def test_a_missing_file_or_folder(tmp_path):
    for read in (decode, read_header):
        refused(r"missing\.wav: no such audio file\. .*ser check", read, tmp_path / "missing.wav")
        refused("isn't a file", read, tmp_path)
    refused("no such folder", audio.find_sound_files, tmp_path / "missing")
    (tmp_path / "annexed.wav").symlink_to(".git/annex/objects/x/SHA256E-s1--0.wav")
    refused(r"a pointer, whose content `git annex get \.` brings", decode, tmp_path / "annexed.wav")


@settings(max_examples=20)
@given(lengths=st.lists(st.integers(400, 2000), min_size=1, max_size=4), seed=st.integers(0, 2**31))
def test_normalize_is_the_preprocessing_of_hubert_large(lengths, seed):
    rng = np.random.default_rng(seed)
    clips = [rng.normal(rng.normal(), rng.uniform(0.1, 2), length).astype(np.float32) for length in lengths]
    options = {"sampling_rate": SAMPLE_RATE, "padding": True, "return_attention_mask": True, "return_tensors": "pt"}
    wanted = Wav2Vec2FeatureExtractor(do_normalize=True)(clips, **options).input_values
    # what stands in the padding must not matter
    padded = torch.full(wanted.shape, 9.0)
    for row, clip in enumerate(clips):
        padded[row, : len(clip)] = torch.from_numpy(clip)
    torch.testing.assert_close(audio.normalize(padded, torch.tensor(lengths)), wanted, atol=1e-4, rtol=1e-4)
    # a constant becomes silence
    assert audio.normalize(torch.full((1, 500), 0.25), torch.tensor([500])).abs().max() < 1e-3


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_no_sound_of_one_voice_is_refused_alike_by_all(name, tmp_path):
    content, line = HOSTILE[name]
    path = tmp_path / f"a{suffix(name)}"
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"a\.\w+: .*{line}") as caught:
        decode(path)
    assert "\n" not in str(caught.value)
    ((kind, *_),) = examine_sound(Utterance("a", path, "train"), decode=True).problems
    assert (kind.fatal, kind.title) == (True, caught.value.what)
    with pytest.raises(UserError) as annotated:
        Recording("a", path).load()
    assert annotated.value.what.startswith(caught.value.what)


@pytest.mark.parametrize("rate", [16_000, 44_100])
@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
def test_blocks_joined_are_the_whole(tmp_path, rate, suffix, monkeypatch):
    monkeypatch.setattr("ser_personal.audio.PIECE", 5_000)
    path = write_noise(tmp_path / f"a.{suffix}", 3 * rate, rate, 2)
    for channel in (None, 1):
        blocks = list(audio.decode_blocks(path, 17_001, channel))
        assert len({len(block) for block in blocks}) <= 2
        assert max(map(len, blocks)) <= 17_001
        np.testing.assert_allclose(np.concatenate(blocks), decode(path, channel=channel), atol=2e-6)
    refused("has no channel 3, but 2", decode, path, channel=2)


@pytest.mark.parametrize("name", FINE)
def test_what_is_odd_and_sound_is_decoded(name, tmp_path):
    path = tmp_path / f"a{suffix(name)}"
    path.write_bytes(FINE[name])
    waveform = decode(path)
    assert len(waveform) == read_header(path).num_samples
    assert not any(kind.fatal for kind, *_ in examine_sound(Utterance("a", path, "train"), decode=True).problems)
    np.testing.assert_allclose(decode(path, 500, 1000), waveform[500:1500], atol=1e-6)
