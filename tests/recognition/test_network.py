from __future__ import annotations

import numpy as np
import pytest
import torch
from command_line import ser
from torch import nn
from transformers import HubertConfig

from ser_personal.audio import decode
from ser_personal.encoder.hubert import HubertEncoder
from ser_personal.encoder.personalized import PersonalizedEncoder
from ser_personal.finetune.interpreters import TransformerInterpreter
from ser_personal.recognition.network import EmotionNetwork, write_onnx
from ser_personal.speakers.embedding import SpeakerEmbedding


@pytest.fixture
def onnxruntime():
    for package in ("onnx", "onnxscript"):
        pytest.importorskip(package, reason=f"{package} isn't installed (the extra onnx)")
    return pytest.importorskip("onnxruntime", reason="onnxruntime isn't installed (the extra onnx)")


@pytest.fixture
def network():
    """HuBERT with a group norm over real frames alone, an embedding at its input and a Transformer for interpreter."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 48}
    # two convolutions whose frames are those of the released models' seven
    front_end = {"conv_dim": [16] * 2, "conv_kernel": [80, 6], "conv_stride": [64, 5]}
    config = HubertConfig(**sizes, **front_end, num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4)
    encoder = PersonalizedEncoder(HubertEncoder(), SpeakerEmbedding(4), "prefix")
    encoder.rebuild(
        {
            "encoder": "HubertEncoder",
            "encoder_config": config.to_json_string(use_diff=False),
            "fusion": "prefix",
            "speakers": {
                "name": "SpeakerEmbedding",
                "sizes": {"embedding_dim": 4},
                "speaker_ids": ["a", "b"],
                "feature_dim": 0,
            },
            "pretrained_on": "",
        }
    )
    nn.init.normal_(encoder.speakers.fc.weight)
    torch.manual_seed(0)
    interpreter = TransformerInterpreter(16, 1, 2)
    interpreter.build(encoder.dim, 3)
    return EmotionNetwork(encoder, interpreter).eval()


def test_onnxruntime_predicts_padded_batches_as_the_network_does(onnxruntime, network, recordings, tmp_path):
    assert write_onnx(network, tmp_path / "m.onnx") < 1e-3
    session = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"))
    waveforms = [decode(path) for path in recordings[:3]] + [decode(recordings[3])[:400]]
    for some in (waveforms, waveforms[:1], waveforms[:2]):
        lengths = np.array([len(waveform) for waveform in some])
        padded = np.zeros((len(some), max(lengths)), dtype=np.float32)
        for row, waveform in enumerate(some):
            padded[row, : len(waveform)] = waveform
        predictions, pooled = session.run(["predictions", "pooled"], {"waveforms": padded, "num_samples": lengths})
        expected = network.recognize(some, [None] * len(some))
        np.testing.assert_allclose(predictions, expected.predictions, atol=1e-3)
        np.testing.assert_allclose(pooled, expected.pooled, atol=1e-3)


def test_the_command_writes_it_into_the_bundle(onnxruntime, tested_checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("ser_personal.sharing.export.write_onnx", lambda _, path: path.write_bytes(b"onnx") * 1e-6)
    assert ser("export", tested_checkpoint, "--out", tmp_path / "bundle", "--onnx") == 0
    assert "model.onnx: onnxruntime's outputs differ by 4e-06" in capsys.readouterr().out
    assert (tmp_path / "bundle" / "model.onnx").read_bytes() == b"onnx"


def test_without_the_packages_nothing_is_written(tested_checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("ser_personal.recognition.network.find_spec", lambda _: None)
    assert ser("export", tested_checkpoint, "--out", tmp_path / "bundle", "--onnx") == 2
    assert "--onnx: needs the package onnx. `pip install onnx onnxscript onnxruntime`" in capsys.readouterr().err
    assert not (tmp_path / "bundle").exists()
