"""A model of categorical emotion, from its fit over export to annotated recordings."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from command_line import configs, ser, trainer_flags
from turn_files import annotated

from ser_personal import EmotionRecognizer
from ser_personal.audio import decode
from ser_personal.data.dataset import Example, collate
from ser_personal.finetune.classification import EmotionClassification


@pytest.fixture(scope="module")
def run(synthetic_corpus, tmp_path_factory):
    """A folder with emotion.ckpt, its test, and its bundle."""
    folder = tmp_path_factory.mktemp("categories")
    stage = [*configs("emotion.yaml", "tiny/emotion.yaml"), "--data.corpus", synthetic_corpus, *trainer_flags(folder)]
    assert ser("fit", *stage) == 0
    assert ser("test", *stage, "--ckpt_path", folder / "emotion.ckpt") == 0
    assert ser("export", folder / "emotion.ckpt", "--out", folder / "bundle") == 0
    return folder


@pytest.fixture(scope="module")
def module(run):
    return EmotionClassification.load_from_checkpoint(run / "emotion.ckpt", map_location="cpu").eval()


@pytest.fixture(scope="module")
def expected(module, recordings):
    """Probabilities (recordings, emotions), each of a recording alone, by the model's logits."""
    rows = []
    for path in recordings[:5]:
        with torch.inference_mode():
            output = module.personalized(collate([Example(0, None, decode(path))]))
            (logits,) = module.interpreter(output).double().numpy()
        rows.append(np.exp(logits) / np.exp(logits).sum())
    return np.array(rows)


def test_a_table_has_the_softmax_of_the_logits(run, module, expected, recordings, tmp_path):
    speakers, talk = ["anna", "ben", "anna", "anna", "ben"], tmp_path / "talk.csv"
    pd.DataFrame({"path": recordings[:5], "speaker": speakers}).to_csv(talk, index=False)
    table = annotated(run / "bundle", tmp_path, talk, "--speaker-from", "column")
    probabilities = [f"{emotion}_probability" for emotion in module.emotions]
    assert list(table) == ["speaker", "start", "end", "predicted", *probabilities, "file"]
    assert list(table["speaker"]) == speakers
    np.testing.assert_allclose(table[probabilities], expected, rtol=0, atol=2e-6)
    assert list(table["predicted"]) == [module.emotions[place] for place in expected.argmax(1)]
    recognizer = EmotionRecognizer.from_pretrained(run / "bundle", device="cpu")
    assert (recognizer.emotions, recognizer.attributes) == (tuple(module.emotions), ())
    np.testing.assert_allclose(recognizer.predict(recordings[:5])[probabilities], expected, rtol=0, atol=1e-6)


def test_a_tier_holds_the_likeliest_emotion(run, module, expected, recordings, tmp_path):
    textgrid = pytest.importorskip("praatio.textgrid", reason="praatio isn't installed (the extra textgrid)")
    path = tmp_path / "out.TextGrid"
    assert ser("annotate", recordings[0], "--model", run / "bundle", "--out", path, "--device", "cpu") == 0
    grid = textgrid.openTextgrid(str(path), includeEmptyIntervals=False, reportingMode="error")
    assert grid.tierNames == ("emotion",)
    assert [entry.label for entry in grid.getTier("emotion").entries] == [module.emotions[expected[0].argmax()]]


def test_the_card_says_what_the_test_found(run, module):
    (path,) = run.rglob("metrics.json")
    scores = json.loads(path.read_text())["splits"]["test1"]["scores"]
    text = (run / "bundle" / "README.md").read_text()
    assert f"Order of the outputs: {', then '.join(module.emotions)}." in text
    assert f"| {scores['uar']:.3f} | {scores['macro_f1']:.3f} | {scores['weighted_f1']:.3f} |" in text
    for word in ("alibrated to", "CCC", "bank", "Label scale"):
        assert word not in text


def test_what_models_of_attributes_alone_have_is_refused(run, recordings, tmp_path, mistake, monkeypatch):
    monkeypatch.chdir(tmp_path)
    export = ["export", run / "emotion.ckpt", "--out", "bundle"]
    annotation = ["annotate", recordings[0], "--model", run / "bundle", "--out", "out.csv", "--device", "cpu"]
    assert "predicts categories, which aren't calibrated" in mistake(*export, "--calibration", "pldc")
    assert "predicts emotions, and only attributes are calibrated" in mistake(*annotation, "--pldc.k", "3")
    line = mistake(*annotation, "--profiles", "profiles.safetensors")
    assert "speakers are enrolled to calibrate attributes" in line
    line = mistake("app", run / "bundle", "--port", 0, "--device", "cpu")
    assert "Use `ser annotate`, then `ser report` of its" in line
    assert list(tmp_path.iterdir()) == []
