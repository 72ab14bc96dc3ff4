from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import numpy as np
import pytest
import soundfile
import torch
from command_line import configs, ser
from hypothesis import given
from hypothesis import strategies as st

from ser_personal.data.datamodule import AudioDataModule
from ser_personal.data.frame_store import FeatureCache
from ser_personal.encoder.hubert import TinyEncoder
from ser_personal.encoder.module import DESCRIPTION, read_checkpoint
from ser_personal.encoder.raw import LogMelEncoder, MFCCEncoder
from ser_personal.errors import UserError
from ser_personal.pretrain.cache import cache, strided

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ser_personal.encoder.base import Encoder


@pytest.fixture
def make(synthetic_corpus: Path, tmp_path: Path) -> Callable[..., Path]:
    def run(out: str = "cache", **changes: object) -> Path:
        settings = {
            "data": AudioDataModule(str(synthetic_corpus), batch_seconds=20),
            "encoder": None if "checkpoint" in changes else tiny(),
            "accelerator": "cpu",
        }
        cache(**settings | changes, out=str(tmp_path / out))
        return tmp_path / out

    return run


def tiny() -> TinyEncoder:
    return TinyEncoder(dim=16, layers=2, heads=2, feed_forward_dim=32)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def assert_holds_frames_of(folder: Path, encoder: Encoder, data: AudioDataModule, stride: int) -> None:
    """Against the encoder's own frames, an utterance at a time."""
    held = FeatureCache.load(folder)
    assert len(held) == len(data.utterances)
    for utterance in data.utterances:
        waveform, _ = soundfile.read(utterance.path, dtype="float32")
        with torch.inference_mode():
            frames = encoder.eval()(torch.from_numpy(waveform)[None], torch.tensor([len(waveform)])).frames[0].numpy()
        expected = [frames[start : start + stride].mean(0) for start in range(0, len(frames), stride)]
        np.testing.assert_allclose(held[utterance.utterance_id], expected, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("stride", [1, 7])
def test_holds_the_means_of_the_encoders_own_frames(
    make: Callable[..., Path], synthetic_corpus: Path, stride: int
) -> None:
    encoder = tiny()
    folder = make(encoder=encoder, stride=stride)
    assert_holds_frames_of(folder, encoder, AudioDataModule(str(synthetic_corpus)), stride)
    assert FeatureCache.load(folder).source.frame_seconds == pytest.approx(stride * 0.02)


@given(frames=st.integers(1, 23), stride=st.integers(1, 12))
def test_stride_takes_the_mean_or_the_first_of_real_frames(frames: int, stride: int) -> None:
    values = np.random.default_rng(frames).normal(size=(frames, 2)).astype(np.float32)
    groups = [values[start : start + stride] for start in range(0, frames, stride)]
    means = [group.mean(0) for group in groups]
    np.testing.assert_allclose(strided(values, stride, "mean"), means, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(strided(values, stride, "first"), [group[0] for group in groups])


def test_raw_features_are_held(make: Callable[..., Path], synthetic_corpus: Path) -> None:
    encoder = LogMelEncoder(24)
    assert_holds_frames_of(make(encoder=encoder, stride=1), encoder, AudioDataModule(str(synthetic_corpus)), 1)


def test_the_encoder_of_a_checkpoint_without_its_speakers(
    make: Callable[..., Path], synthetic_corpus: Path, papt_checkpoint: Path
) -> None:
    saved = read_checkpoint(papt_checkpoint)
    encoder = TinyEncoder()
    encoder.build(saved[DESCRIPTION]["encoder_config"])
    prefix = "personalized.encoder."
    encoder.load_state_dict({k.removeprefix(prefix): v for k, v in saved["state_dict"].items() if k.startswith(prefix)})
    folder = make(checkpoint=str(papt_checkpoint), stride=3)
    assert_holds_frames_of(folder, encoder, AudioDataModule(str(synthetic_corpus)), 3)
    assert FeatureCache.load(folder).source.encoder == f"TinyEncoder of {papt_checkpoint}"


def test_a_layer(make: Callable[..., Path], synthetic_corpus: Path) -> None:
    encoder = tiny()
    held = FeatureCache.load(make(encoder=encoder, layer=1, stride=1))
    assert held.source.layer == 1
    utterance = AudioDataModule(str(synthetic_corpus)).utterances[0]
    waveform = torch.from_numpy(soundfile.read(utterance.path, dtype="float32")[0])[None]
    with torch.inference_mode():
        expected = encoder.eval().hidden_states(waveform, torch.tensor([waveform.shape[1]]), 1).frames[0]
    np.testing.assert_allclose(held[utterance.utterance_id], expected, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("written", [0, 1, 50])
def test_an_interrupted_run_ends_with_the_same_bytes(
    make: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, written: int
) -> None:
    whole = make("whole")
    write = FeatureCache.write

    def interrupted(store: FeatureCache, *arguments: object) -> None:
        if len(store) >= written:
            raise InterruptedError
        write(store, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(FeatureCache, "write", interrupted)
        with pytest.raises(InterruptedError):
            make("broken")
    with pytest.raises(UserError, match="half written"):
        FeatureCache.load(whole.parent / "broken")
    assert contents(make("broken")) == contents(whole)


def test_a_finished_folder_is_left_alone(make: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    before = contents(make())
    monkeypatch.setattr(TinyEncoder, "forward", None)
    assert contents(make()) == before


def test_what_does_not_belong_into_a_folder_is_refused(make: Callable[..., Path], papt_checkpoint: Path) -> None:
    make()
    for change in ({"seed": 1}, {"stride": 5}, {"encoder": MFCCEncoder()}, {"layer": 1}):
        with pytest.raises(UserError, match="holds cached features of another encoder"):
            make(**change)
    with pytest.raises(UserError, match="--layer 2: MFCCEncoder has no layers"):
        make("other", encoder=MFCCEncoder(), layer=2)
    with pytest.raises(UserError, match="Give either --encoder or --checkpoint"):
        make("other", encoder=tiny(), checkpoint=str(papt_checkpoint))


def test_a_full_disk_is_one_line(
    synthetic_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full_disk(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "cache"))

    monkeypatch.setattr("ser_personal.data.frame_store.atomic_write", full_disk)
    arguments = ["--data.corpus", synthetic_corpus, "--out", tmp_path / "cache", "--accelerator", "cpu"]
    assert ser("cache", *configs("cache.yaml", "tiny/cache.yaml"), *arguments) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith(f"ser: {tmp_path / 'cache'}: No space left on device. Check the path")
