from __future__ import annotations

import pickle
import re
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from command_line import REPOSITORY
from hypothesis import given, settings
from hypothesis import strategies as st

from ser_personal.audio import num_frames
from ser_personal.data.frame_store import FeatureCache, FeatureCacheWriter, audio_key, strided
from ser_personal.errors import UserError
from ser_personal.types import FeatureSource

if TYPE_CHECKING:
    from pathlib import Path

SOURCE = FeatureSource(encoder="test", dim=3, frame_seconds=0.2)
FRAMES = {
    name: np.random.default_rng(k).normal(size=(k + 1, 3)).astype(np.float32)
    for k, name in enumerate(["a", "ü b", "c"])
}
FILES = ("frames.float16", "utterances.jsonl", "meta.json")


def write(folder: Path, source: FeatureSource = SOURCE) -> None:
    with FeatureCacheWriter(folder, source) as writer:
        for utterance_id, frames in FRAMES.items():
            if utterance_id not in writer:
                writer.write(utterance_id, frames)
        writer.finish()


def contents(folder: Path) -> list[bytes]:
    return [(folder / name).read_bytes() for name in FILES]


def test_reads_in_half_precision_what_was_written(tmp_path: Path) -> None:
    write(tmp_path)
    cache = FeatureCache.load(tmp_path)
    assert (len(cache), cache.total_frames, cache.source) == (3, 6, SOURCE)
    for utterance_id, frames in FRAMES.items():
        np.testing.assert_array_equal(cache[utterance_id], frames.astype(np.float16))
        assert cache.num_frames(utterance_id) == len(frames)
    copied = pickle.loads(pickle.dumps(cache))
    np.testing.assert_array_equal(copied["c"], cache["c"])
    assert isinstance(copied["c"].base, np.memmap)


@settings(max_examples=40, deadline=None)
@given(frame_bytes=st.integers(0, 36), line_bytes=st.integers(0, 36))
def test_killed_at_any_byte_it_goes_on_to_the_same_bytes(
    tmp_path_factory: pytest.TempPathFactory, frame_bytes: int, line_bytes: int
) -> None:
    whole, broken = tmp_path_factory.mktemp("whole"), tmp_path_factory.mktemp("broken")
    write(whole)
    with FeatureCacheWriter(broken, SOURCE) as writer:
        for utterance_id, frames in FRAMES.items():
            writer.write(utterance_id, frames)
    for name, size in (("frames.float16", frame_bytes), ("utterances.jsonl", line_bytes)):
        (broken / name).write_bytes((broken / name).read_bytes()[:size])
    with pytest.raises(UserError, match=r"only half written\. Run the same `ser cache` again"):
        FeatureCache.load(broken)
    write(broken)
    assert contents(broken) == contents(whole)


@given(frames=st.integers(1, 23), stride=st.integers(1, 12))
def test_stride_takes_the_mean_of_real_frames(frames: int, stride: int) -> None:
    values = np.random.default_rng(frames).normal(size=(frames, 2)).astype(np.float32)
    groups = [values[start : start + stride] for start in range(0, frames, stride)]
    np.testing.assert_allclose(
        strided(values, stride, "mean"), [group.mean(0) for group in groups], rtol=1e-5, atol=1e-6
    )
    np.testing.assert_array_equal(strided(values, stride, "first"), [group[0] for group in groups])


def test_a_hundred_thousand_utterances_of_six_seconds_take_less_than_seven_gigabytes(tmp_path: Path) -> None:
    encoded = np.zeros((num_frames(6 * 16_000), 1024), dtype=np.float32)
    source = replace(SOURCE, dim=1024, stride=10)
    with FeatureCacheWriter(tmp_path, source) as writer:
        for number in range(3):
            writer.write(
                f"MSP-PODCAST_{number:04}_0001_0001", strided(encoded, 10, "mean"), tmp_path / "utterances.jsonl"
            )
        writer.finish()
    grown = sum((tmp_path / name).stat().st_size for name in FILES[:2])
    assert grown / 3 * 100_000 <= 7e9


def test_audio_is_told_apart_by_its_content_and_not_by_its_date(tmp_path: Path) -> None:
    audio, copied, louder = (tmp_path / name for name in ("a.wav", "b.wav", "c.wav"))
    content = bytes(range(256)) * 100
    audio.write_bytes(content)
    copied.write_bytes(content)
    louder.write_bytes(content[:100] + bytes(byte ^ 1 for byte in content[100:]))
    assert audio_key(audio) == audio_key(copied)
    assert audio_key(audio) != audio_key(louder)
    with FeatureCacheWriter(tmp_path / "cache", SOURCE) as writer:
        writer.write("a", FRAMES["a"], audio)
        assert writer.holds("a", copied)
        assert not writer.holds("b", copied)
        with pytest.raises(UserError, match=r"c\.wav: audio has changed since"):
            writer.holds("a", louder)
        writer.finish()
    cache = FeatureCache.load(tmp_path / "cache")
    assert cache.is_of("a", copied)
    assert not cache.is_of("a", louder)
    assert cache.is_of("a", tmp_path / "gone.wav")


def test_what_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no cached features here"):
        FeatureCache.load(tmp_path / "nowhere")
    write(tmp_path)
    with pytest.raises(UserError, match="holds cached features of another encoder, layer, stride or length"):
        FeatureCacheWriter(tmp_path, replace(SOURCE, layer=6))
    (tmp_path / "frames.float16").write_bytes(b"\0" * 12)
    with pytest.raises(UserError, match="damaged: 12 bytes for 6 frames of 3 values"):
        FeatureCache.load(tmp_path)
    with pytest.raises(UserError, match="dim: 0 is out of range"):
        FeatureCacheWriter(tmp_path / "other", replace(SOURCE, dim=0))


@pytest.mark.parametrize("value", [np.nan, np.inf, 70_000.0])
def test_what_half_precision_cannot_hold_is_refused(tmp_path: Path, value: float) -> None:
    with (
        FeatureCacheWriter(tmp_path, SOURCE) as writer,
        pytest.raises(UserError, match="features of a: a value is NaN, infinite or above 65504"),
    ):
        writer.write("a", np.full((2, 3), value))


@pytest.mark.parametrize("shape", [(0, 3), (3,), (2, 4)])
def test_frames_of_another_shape_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    with FeatureCacheWriter(tmp_path, SOURCE) as writer, pytest.raises(ValueError, match="is not"):
        writer.write("a", np.zeros(shape))


def test_the_documented_example_writes_a_cache(
    tmp_path: Path, synthetic_corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "corpus").symlink_to(synthetic_corpus)
    monkeypatch.chdir(tmp_path)
    text = (REPOSITORY / "docs" / "feature_cache.md").read_text()
    example = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert example is not None
    exec(compile(example[1], "feature_cache.md", "exec"), {})  # noqa: S102
    cache = FeatureCache.load("my_cache")
    assert (len(cache), cache.source.dim) == (72, 64)
