from dataclasses import replace

import numpy as np
import pytest
from command_line import ser
from garbage import refused
from tiny_models import speakers_alone, tiny_network
from torch import nn

from ser_personal import EmotionRecognizer
from ser_personal.audio import decode
from ser_personal.calibration.few_labels import LabelPrior
from ser_personal.data.dataset import Example, collate
from ser_personal.encoder.base import weights_fingerprint
from ser_personal.encoder.hubert import HubertEncoder
from ser_personal.encoder.personalized import PersonalizedEncoder
from ser_personal.finetune.interpreters import MLPInterpreter, TransformerInterpreter
from ser_personal.recognition.bundle import FILES, find_bundle, new_folder, read_bundle, write_bundle
from ser_personal.recognition.network import EmotionNetwork, write_onnx
from ser_personal.speakers.embedding import SpeakerEmbedding


def test_a_bundle_holds_no_pickle(bundle_folder):
    assert {path.name for path in bundle_folder.iterdir()} == {*FILES} - {"conformal.json", "posterior.json"}
    contents = [path.read_bytes() for path in bundle_folder.iterdir()]
    assert not any(b"PK\x03\x04" in content or content[:1] == b"\x80" for content in contents)


def test_a_bundle_written_and_read_again_is_the_same(bundle, tmp_path):
    priors = {"pldc": {"arousal": LabelPrior(shift=0.3), "valence": LabelPrior(scale=1.2)}, "none": {}}
    write_bundle(replace(bundle, label_priors=priors), tmp_path / "again")
    again = read_bundle(tmp_path / "again")
    assert again.model == bundle.model == weights_fingerprint(again.network.state_dict())
    assert (again.attributes, again.scale, again.pldc) == (("arousal", "valence"), (1.0, 7.0), bundle.pldc)
    assert (again.pldc.k, again.label_priors) == (3, priors)
    np.testing.assert_array_equal(again.bank.vectors, bundle.bank.vectors)


def test_nothing_half_written_is_left(bundle, tmp_path):
    with pytest.raises(TypeError), new_folder(tmp_path / "b") as folder:
        write_bundle(replace(bundle, scale={1, 7}), folder)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "b").mkdir()
    with new_folder(tmp_path / "b") as folder:
        write_bundle(bundle, folder)
    refused("isn't an empty folder", new_folder(tmp_path / "b").__enter__)


class Forgetful(MLPInterpreter):
    def __init__(self, width: int) -> None:
        super().__init__((width,))


class Gate(nn.Module):
    """What another part is made of."""


class Own(MLPInterpreter):
    def __init__(self, width: int, gate: Gate) -> None:
        super().__init__((width,))
        self.width, self.gate = width, gate


def test_interpreters_of_other_packages(bundle, tmp_path):
    bundle.network.interpreter = Own(5, Gate())
    bundle.network.interpreter.build(bundle.network.dim, 2)
    write_bundle(bundle, tmp_path / "own")
    interpreter = read_bundle(tmp_path / "own").network.interpreter
    assert isinstance(interpreter.layers, nn.Sequential)
    assert isinstance(interpreter.gate, Gate)
    bundle.network.interpreter = Forgetful(5)
    refused("Forgetful: doesn't keep its argument width", write_bundle, bundle, tmp_path / "other")


def test_where_no_bundle_is(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    refused("can't be read", EmotionRecognizer.from_pretrained, tmp_path)
    for name in ("a/b/c", "nowhere", str(tmp_path / "x"), "../up"):
        refused("no such folder", find_bundle, name)


@pytest.fixture
def onnxruntime():
    packages = ("onnx", "onnxscript", "onnxruntime")
    return [pytest.importorskip(name, reason=f"{name} isn't installed (the extra onnx)") for name in packages][-1]


@pytest.fixture
def network(tmp_path):
    """HuBERT with a group norm over real frames alone, an embedding at its input and a Transformer for interpreter."""
    # two convolutions whose frames are those of the released models' seven
    front_end = {"conv_dim": [16] * 2, "conv_kernel": [80, 6], "conv_stride": [64, 5]}
    tiny_network("hubert", "group", num_hidden_layers=1, **front_end).save_pretrained(tmp_path / "hubert")
    encoder = PersonalizedEncoder(HubertEncoder(str(tmp_path / "hubert")), SpeakerEmbedding(4), "prefix")
    encoder.build(speakers_alone("a", "b"))
    nn.init.normal_(encoder.speakers.fc.weight)
    interpreter = TransformerInterpreter(16, 1, 2)
    interpreter.build(encoder.dim, 3)
    return EmotionNetwork(encoder, interpreter).eval()


def test_onnxruntime_predicts_padded_batches_as_the_network_does(onnxruntime, network, recordings, tmp_path):
    assert write_onnx(network, tmp_path / "m.onnx") < 1e-3
    session = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"))
    waveforms = [decode(path) for path in recordings[:3]] + [decode(recordings[3])[:400]]
    for some in (waveforms, waveforms[:1], waveforms[:2]):
        batch = collate([Example(row, None, waveform) for row, waveform in enumerate(some)])
        inputs = {name: batch[name].numpy() for name in ("waveforms", "num_samples")}
        predictions, pooled = session.run(["predictions", "pooled"], inputs)
        expected = network.recognize(some, [None] * len(some))
        np.testing.assert_allclose(predictions, expected.predictions, atol=1e-3)
        np.testing.assert_allclose(pooled, expected.pooled, atol=1e-3)


def test_the_command_writes_it_into_the_bundle(onnxruntime, tested_checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("ser_personal.sharing.export.write_onnx", lambda _, path: path.write_bytes(b"onnx") * 1e-6)
    assert ser("export", tested_checkpoint, "--out", tmp_path / "bundle", "--onnx") == 0
    assert "model.onnx: onnxruntime's outputs differ by 4e-06" in capsys.readouterr().out
    assert (tmp_path / "bundle" / "model.onnx").read_bytes() == b"onnx"
