from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from tiny_models import emotion_data, finetuning, fit

from ser_personal.audio import decode
from ser_personal.encoder.raw import EGeMAPSEncoder, LogMelEncoder, MFCCEncoder
from ser_personal.errors import UserError
from ser_personal.recognition.export import export
from ser_personal.recognition.recognizer import EmotionRecognizer
from ser_personal.types import SpeechBatch

if TYPE_CHECKING:
    from pathlib import Path

    from ser_personal.encoder.raw import RawEncoder


@pytest.mark.parametrize("kind", [LogMelEncoder, MFCCEncoder, EGeMAPSEncoder])
def test_a_bundle_of_raw_features_predicts_as_its_checkpoint(
    kind: type[RawEncoder], synthetic_corpus: Path, tmp_path: Path
) -> None:
    if kind is EGeMAPSEncoder:
        pytest.importorskip("opensmile", reason="needs the extra egemaps")
    data = emotion_data(synthetic_corpus)
    module = finetuning(encoder=kind())
    fit(module, data, tmp_path, max_steps=3).save_checkpoint(tmp_path / "finetune.ckpt")
    export(str(tmp_path / "finetune.ckpt"), str(tmp_path / "bundle"))
    waveform = decode(data.utterances[0].path)
    batch = SpeechBatch(
        waveforms=torch.from_numpy(waveform)[None],
        num_samples=torch.tensor([len(waveform)]),
        speaker_ids=[None],
        indices=torch.tensor([0]),
    )
    module.eval()
    with torch.inference_mode():
        expected = module.interpreter(module.personalized(batch))[0]
    predicted = EmotionRecognizer.from_pretrained(tmp_path / "bundle").predict([waveform], calibrate=False)
    np.testing.assert_allclose(predicted[["arousal_raw", "valence_raw"]].to_numpy()[0], expected, rtol=1e-4)


def test_raw_features_are_not_written_as_onnx(synthetic_corpus: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript", reason="needs the extra onnx")
    module = finetuning(encoder=MFCCEncoder())
    fit(module, emotion_data(synthetic_corpus), tmp_path, max_steps=1).save_checkpoint(tmp_path / "finetune.ckpt")
    with pytest.raises(UserError, match="--onnx: MFCCEncoder can't be written as ONNX"):
        export(str(tmp_path / "finetune.ckpt"), str(tmp_path / "bundle"), onnx=True)
