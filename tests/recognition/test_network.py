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
from ser_personal.finetune.interpreters import Interpreter, TransformerInterpreter
from ser_personal.recognition.network import EmotionNetwork, OnnxNetwork, onnx_difference, write_onnx
from ser_personal.speakers.embedding import SpeakerEmbedding


class Both(Interpreter):
    """With and without a speaker token, in one graph: an export takes most of the time."""

    reads_speaker = True

    def build(self, dim, outputs):
        for name in ("first", "second"):
            self.add_module(name, TransformerInterpreter(16, 1, 2))
            getattr(self, name).build(dim, outputs)

    def forward(self, output):
        return torch.cat([self.first(output), self.second(output._replace(speaker_embedding=None))], dim=1)


@pytest.fixture
def onnxruntime():
    for package in ("onnx", "onnxscript"):
        pytest.importorskip(package, reason=f"{package} isn't installed (the extra onnx)")
    return pytest.importorskip("onnxruntime", reason="onnxruntime isn't installed (the extra onnx)")


def test_onnxruntime_predicts_padded_batches_as_the_recognizer_does(
    onnxruntime, tested_checkpoint, recognizer, recordings, tmp_path, capsys
):
    assert ser("export", tested_checkpoint, "--out", tmp_path / "bundle", "--onnx") == 0
    assert "model.onnx: onnxruntime's outputs differ by" in capsys.readouterr().out
    waveforms = [decode(path) for path in recordings[:5]]
    padded = np.zeros((5, max(map(len, waveforms))), dtype=np.float32)
    for row, waveform in enumerate(waveforms):
        padded[row, : len(waveform)] = waveform
    lengths = np.array([len(waveform) for waveform in waveforms])
    session = onnxruntime.InferenceSession(str(tmp_path / "bundle" / "model.onnx"))
    predictions, pooled = session.run(["predictions", "pooled"], {"waveforms": padded, "num_samples": lengths})
    expected = recognizer.bundle.network.recognize(waveforms, [None] * 5)
    np.testing.assert_allclose(predictions, expected.predictions, atol=1e-3)
    np.testing.assert_allclose(pooled, expected.pooled, atol=1e-3)


def test_hubert_with_speakers_at_its_input_and_a_transformer_for_interpreter(onnxruntime, tmp_path):
    """Convolutions with a group norm over real frames alone, and an embedding that is fused first."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 48}
    config = HubertConfig(**sizes, conv_dim=[16] * 7, num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4)
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
    interpreter = Both()
    interpreter.build(encoder.dim, 3)
    network = EmotionNetwork(encoder, interpreter).eval()
    assert write_onnx(network, tmp_path / "m.onnx") < 1e-3
    for lengths in ([5000], [8000, 8000], [20_000, 400, 3000]):
        assert onnx_difference(OnnxNetwork(network).eval(), tmp_path / "m.onnx", torch.tensor(lengths)) < 1e-3


def test_without_the_packages_nothing_is_written(tested_checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("ser_personal.recognition.network.find_spec", lambda _: None)
    assert ser("export", tested_checkpoint, "--out", tmp_path / "bundle", "--onnx") == 2
    assert "--onnx: needs the package onnx. `pip install onnx onnxscript onnxruntime`" in capsys.readouterr().err
    assert not (tmp_path / "bundle").exists()
