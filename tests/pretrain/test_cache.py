import numpy as np
import pytest
import soundfile
import torch
from garbage import refused
from tiny_models import encoder as tiny

from ser_personal.data.datamodule import AllUtterancesDataModule
from ser_personal.data.frame_store import FeatureCache
from ser_personal.encoder.hubert import TinyEncoder
from ser_personal.encoder.module import DESCRIPTION, read_checkpoint
from ser_personal.encoder.raw import LogMelEncoder, MFCCEncoder
from ser_personal.pretrain.cache import cache
from ser_personal.types import unpack_hashes


@pytest.fixture
def data(synthetic_corpus):
    """Eighteen utterances in several batches."""
    return AllUtterancesDataModule(str(synthetic_corpus), splits=["test1"], batch_seconds=8)


@pytest.fixture
def make(data, tmp_path):
    def run(out="cache", **changes):
        encoder = None if "checkpoint" in changes else tiny()
        cache(**{"data": data, "encoder": encoder, "accelerator": "cpu"} | changes, out=str(tmp_path / out))
        return tmp_path / out

    return run


def assert_holds(folder, frames_of, data, stride):
    """Against an encoder's own frames, an utterance at a time."""
    held = FeatureCache.load(folder)
    utterances = [data.utterances[index] for batch in data.batches() for index in batch]
    assert len(held) == len(utterances) == 18
    for utterance in utterances:
        waveform, _ = soundfile.read(utterance.path, dtype="float32")
        with torch.inference_mode():
            frames = frames_of(torch.from_numpy(waveform)[None], torch.tensor([len(waveform)])).frames[0].numpy()
        expected = [frames[start : start + stride].mean(0) for start in range(0, len(frames), stride)]
        np.testing.assert_allclose(held[utterance.utterance_id], expected, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize(("kind", "stride", "layer"), [(tiny, 7, None), (tiny, 1, 1), (LogMelEncoder, 1, None)])
def test_holds_the_means_of_the_encoders_own_frames(make, data, kind, stride, layer):
    encoder = kind()
    folder = make(encoder=encoder, stride=stride, layer=layer)
    encoder.eval()
    frames_of = encoder if layer is None else lambda *audio: encoder.hidden_states(*audio, layer)
    assert_holds(folder, frames_of, data, stride)
    source = FeatureCache.load(folder).source
    assert (source.frame_seconds, source.layer) == (pytest.approx(stride * 0.02), layer)


def test_the_encoder_of_a_checkpoint_without_its_speakers(make, data, papt_checkpoint):
    saved = read_checkpoint(papt_checkpoint)
    encoder = TinyEncoder()
    encoder.build(saved[DESCRIPTION]["encoder_config"])
    prefix = "personalized.encoder."
    encoder.load_state_dict({k.removeprefix(prefix): v for k, v in saved["state_dict"].items() if k.startswith(prefix)})
    folder = make(checkpoint=str(papt_checkpoint), stride=3)
    assert_holds(folder, encoder.eval(), data, 3)
    held = FeatureCache.load(folder)
    assert held.source.encoder == f"TinyEncoder of {papt_checkpoint}"
    assert held.trained_on == unpack_hashes(saved[DESCRIPTION]["pretrained_on"]) != frozenset()


def test_an_interrupted_run_ends_with_the_same_bytes_and_does_nothing_twice(resumes_alike):
    resumes_alike(FeatureCache, TinyEncoder)


def test_what_does_not_belong_into_a_folder_is_refused(make, papt_checkpoint):
    make()
    for change in ({"seed": 1}, {"layer": 1}):
        refused("holds cached features of another encoder", make, **change)
    refused("--layer 2: chooses no layer of MFCCEncoder", make, "other", encoder=MFCCEncoder(), layer=2)
    refused("Give either --encoder or --checkpoint", make, "other", encoder=tiny(), checkpoint=str(papt_checkpoint))
