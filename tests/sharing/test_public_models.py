import os
from pathlib import Path

import numpy as np
import pandas as pd
import public_forms
import pytest
import torch
from command_line import configs, ser, trainer_flags
from garbage import Trap
from public_forms import FORMS, Dense, Odyssey, Vox, odyssey_config, write_dense, write_model

from ser_personal.data.dataset import Example, collate
from ser_personal.encoder.hubert import HubertEncoder
from ser_personal.recognition.bundle import read_bundle
from ser_personal.sharing.public_models import as_module, read_public_model
from ser_personal.types import ATTRIBUTES

DENSE, ODYSSEY, VOX = (public_forms.weights_of(kind) for kind in (Dense, Odyssey, Vox))
CONFIG, ODYSSEY_CONFIG = public_forms.dense_config(), odyssey_config()
WHISPER = {**public_forms.VOX_CONFIG, "pretrain_model": "whisper_large"}
WIDE, SPOILT = {"classifier.dense.weight": torch.zeros(8, 16)}, {"classifier.dense.bias": torch.full((16,), torch.nan)}


@pytest.fixture
def waveforms():
    """Of 0.5 to 13 s: one is longer than the Odyssey baseline's 12 s."""
    rng = np.random.default_rng(0)
    sizes = (16_000, 9_000, 208_000, 31_999, 8_321)
    return [rng.normal(0.01, rng.uniform(0.02, 0.2), size).astype(np.float32) for size in sizes]


@pytest.mark.parametrize("form", FORMS)
def test_an_imported_model_predicts_what_it_did_in_a_padded_batch_as_alone(form, waveforms, tmp_path):
    write, outputs = FORMS[form]
    assert ser("import", write(tmp_path / "model"), "--out", tmp_path / "out") == 0
    network = read_bundle(tmp_path / "out" / "bundle").network
    expected = np.array([[outputs(one)[name] for name in ATTRIBUTES] for one in waveforms])
    assert np.ptp(expected, axis=0).min() > 1e-3
    with torch.inference_mode():
        _, together = network(collate([Example(row, None, one) for row, one in enumerate(waveforms)]))
    np.testing.assert_allclose(together, expected, rtol=0, atol=1e-5)
    alone = network.recognize(waveforms[:2], [None] * 2).predictions
    np.testing.assert_allclose(alone, expected[:2], rtol=0, atol=1e-5)


@pytest.mark.parametrize("form", ["dense", "odyssey"])
def test_from_import_over_a_pldc_test_to_calibrated_values(form, synthetic_corpus, recordings, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    FORMS[form][0](tmp_path / "model")
    assert ser("import", "model", "--out", "imported") == 0
    data = ["--data.corpus", synthetic_corpus, "--data.num_workers", "0"]
    flags = [*data, *trainer_flags(tmp_path)[:-6], "--trainer.callbacks.draws", "1"]
    assert ser("test", "--ckpt_path", "imported/finetune.ckpt", "--config", "pldc.yaml", *flags) == 0
    assert ser("export", "imported/finetune.ckpt", "--out", "bundle") == 0
    Path("anna").mkdir()
    for path in recordings[:4]:
        Path("anna", path.name).symlink_to(path)
    flags = ["--speaker-from", "folder", "--device", "cpu", "--out", "predictions.csv"]
    assert ser("annotate", "anna", *flags, "--model", "bundle") == 0
    card = " ".join(Path("bundle/README.md").read_text().split())
    assert f"license: {'cc-by-nc-sa-4.0' if form == 'dense' else 'unknown'}" in card
    assert "imported from model, whose card says how" in card
    frame = pd.read_csv("predictions.csv")
    for attribute in ATTRIBUTES:
        assert not np.allclose(frame[f"{attribute}_raw"], frame[f"{attribute}_calibrated"])


def test_a_fit_goes_on_from_an_imported_model(synthetic_corpus, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_dense(tmp_path / "model")
    assert ser("import", "model", "--out", "imported") == 0
    recipe = [*configs("finetune.yaml", "public/dense.yaml"), "--model.initial_checkpoint", "imported/finetune.ckpt"]
    few = ["--trainer.limit_train_batches", "1", "--trainer.precision", "32-true", "--data.num_workers", "0"]
    assert ser("fit", *recipe, *few, "--data.corpus", synthetic_corpus, *trainer_flags(tmp_path)) == 0
    paths = ("imported/finetune.ckpt", "finetune.ckpt")
    before, after = (torch.load(path, weights_only=True)["state_dict"] for path in paths)
    moved = {name: float((after[name] - weight).abs().max()) for name, weight in before.items()}
    assert max(moved.values()) < 1e-3
    assert moved["interpreter.dense.weight"] > 0
    assert moved["personalized.encoder.front_end.conv_layers.0.conv.weight"] == 0


def test_pre_training_can_start_from_its_encoder_by_name(tmp_path):
    folder = str(write_dense(tmp_path / "model"))
    by_name = HubertEncoder(folder)
    by_name.build()
    imported = as_module(read_public_model(Path(folder), folder), folder, (1, 7)).personalized.encoder
    assert by_name.network.config.feat_extract_norm == "layer", "it normalises waveforms"
    torch.testing.assert_close(by_name.state_dict(), imported.state_dict(), rtol=0, atol=0)


def test_outputs_are_label_points_of_the_scale_that_is_asked_for(tmp_path, waveforms, synthetic_corpus, mistake):
    write_model(tmp_path / "model", odyssey_config(("LABEL_0", "LABEL_1", "LABEL_2")), ODYSSEY)
    flags = ["--attributes", "[arousal,dominance,valence]", "--scale", "[1,5]"]
    assert ser("import", tmp_path / "model", "--out", tmp_path / "out", *flags) == 0
    bundle = read_bundle(tmp_path / "out" / "bundle")
    assert (bundle.attributes, bundle.scale, bundle.max_samples) == (ATTRIBUTES, (1.0, 5.0), 192_000)
    data, config = ["--data.corpus", synthetic_corpus], ["--config", "configs/pldc.yaml"]
    line = mistake("test", *config, *data, "--ckpt_path", tmp_path / "out" / "finetune.ckpt")
    assert "was trained on labels from 1 to 5, and this corpus's scale is 1 to 7. Bring" in line
    assert line.rstrip().endswith("to that scale, in a table.")
    # one whose head has the scale itself
    write, outputs = FORMS["vox"]
    assert ser("import", write(tmp_path / "vox"), "--out", tmp_path / "own", "--scale", "[1,5]") == 0
    expected = [[1 + (outputs(one)[name] - 1) * 4 / 6 for name in ATTRIBUTES] for one in waveforms[:2]]
    predicted = read_bundle(tmp_path / "own" / "bundle").network.recognize(waveforms[:2], [None] * 2).predictions
    np.testing.assert_allclose(predicted, expected, rtol=0, atol=1e-5)


def with_code(folder):
    write_model(folder, CONFIG, {"classifier.dense.weight": Trap(folder.parent / "victim")}, pickled=True)


def changed(config, weights, **changes):
    return lambda folder: write_model(folder, config, {**weights, **changes})


def named(*outputs):
    return changed(public_forms.dense_config(outputs), DENSE)


BAD = {
    "a speech recogniser": (changed(CONFIG, DENSE, lm_head=torch.zeros(4, 16)), "weights aren't wav2vec2. and"),
    "a text model": (changed({"model_type": "bert"}, DENSE), "is of type bert, not of hubert, wavlm"),
    "a head of another width": (changed(CONFIG, DENSE, **WIDE), "dense.weight is (8, 16), not (16, 16)"),
    "more outputs than names": (named("arousal"), "its head gives 3 outputs and names 1"),
    "categories": (named("angry", "happy", "sad"), "its outputs are angry, happy, sad; emotion attributes are"),
    "code in a .bin": (with_code, "names posix.mkdir"),
    "NaN": (changed(CONFIG, DENSE, **SPOILT), "hold NaN or infinity: dense.bias"),
    "an impossible configuration": (changed({**CONFIG, "num_attention_heads": 3}, DENSE), "describes no network"),
    "a Whisper of Vox-Profile's": (changed(WHISPER, VOX), "its encoder is whisper_large, not a WavLM"),
    "another encoder": (changed({**ODYSSEY_CONFIG, "ssl_type": "facebook/hubert-base"}, ODYSSEY), "not a WavLM"),
    "no deviation": (changed({**ODYSSEY_CONFIG, "std": 0}, ODYSSEY), "have mean -0.0002 and standard deviation 0"),
    "another rate": (changed({**ODYSSEY_CONFIG, "sampling_rate": 8000}, ODYSSEY), "at 8000 Hz, not 16000"),
    "nothing": (lambda folder: folder.mkdir(), "lack or misspell something"),
    "half a file": (lambda to: os.truncate(write_dense(to) / "model.safetensors", 1000), "isn't complete safetensors"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_no_such_model_is_one_line_and_nothing_is_written(kind, tmp_path, mistake):
    make, what = BAD[kind]
    make(tmp_path / "model")
    line = mistake("import", tmp_path / "model", "--out", tmp_path / "out")
    assert (line.startswith("ser: "), what in line) == (True, True), line
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_what_an_import_refuses_of_a_name_or_a_good_model(tmp_path, monkeypatch, mistake):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    model, out, released = write_dense(tmp_path / "model"), tmp_path / "out", tmp_path / "model" / "model.safetensors"
    for arguments, what in (
        (["nobody/nothing", "--out", out], "neither a folder nor a model that the Hugging Face hub gives"),
        (["nothing.pt", "--out", out], "nothing.pt: no such file or folder"),
        ([model, "--out", tmp_path], "isn't an empty folder"),
        ([model, "--out", out, "--revision", "v9"], "is local, and has no revisions"),
        ([model, "--out", out, "--codebook", "c"], "--codebook: is for a released codebook or checkpoint, and"),
        ([model, "--out", out, "--replace", "true"], "--replace: is for a released codebook or checkpoint, and"),
        ([released, "--out", out, "--attributes", "[arousal]"], "--attributes: is for an emotion model, and"),
        ([released, "--out", out, "--scale", "[1,5]"], "--scale: is for an emotion model, and"),
        ([model, "--out", out, "--scale", "[5,1]"], "scale: (5.0, 1.0) is an empty range or an endless one"),
    ):
        assert what in mistake("import", *arguments)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
