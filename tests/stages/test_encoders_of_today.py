"""Through the command line, from a fit of some steps to annotated audio: LoRA, and Whisper's encoder."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from command_line import configs, ser, trainer_flags
from tiny_models import tiny_network, tiny_whisper

from ser_personal import MSPPodcast
from ser_personal.audio import decode_utterance
from ser_personal.recognition.bundle import read_bundle

SHORT = ("--trainer.limit_train_batches", "2", "--trainer.limit_val_batches", "1", "--trainer.precision", "32-true")
HUBERT = [*configs("finetune.yaml"), "--model.encoder.pretrained", "hubert"]


@pytest.fixture
def data(synthetic_corpus, tmp_path, monkeypatch):
    """The tail of a command line, in a folder where the encoders `hubert` and `whisper` lie."""
    tiny_network("hubert", "layer").save_pretrained(tmp_path / "hubert")
    tiny_whisper(seconds=4).save_pretrained(tmp_path / "whisper")
    monkeypatch.chdir(tmp_path)
    return ["--data.corpus", synthetic_corpus, "--data.num_workers", "0", *trainer_flags(tmp_path)]


def test_whisper_from_a_fit_over_a_test_to_annotated_audio(data, synthetic_corpus):
    pytest.importorskip("peft", reason="the extra lora isn't installed")
    recipe = configs("finetune.yaml", "encoders/whisper.yaml", "encoders/lora.yaml")
    assert ser("fit", *recipe, "--model.encoder.pretrained", "whisper", *data, *SHORT) == 0
    flags = ["--trainer.callbacks.draws", "1", *SHORT[-2:]]
    assert ser("test", "--ckpt_path", "finetune.ckpt", *configs("pldc.yaml"), *data, *flags) == 0
    run = max(Path("lightning_logs").glob("*/predictions.csv"), key=lambda path: path.stat().st_mtime_ns)
    assert ser("export", "finetune.ckpt", "--out", "bundle") == 0
    annotated = ["annotate", synthetic_corpus / "Audios", "--speaker-from", "none", "--device", "cpu"]
    assert ser(*annotated, "--model", "bundle", "--out", "annotated.csv", "--cut", "windows") == 0
    assert np.isfinite(pd.read_csv("annotated.csv")["arousal_raw"]).all()
    # a bundle needs neither adapters nor the folder that the encoder came from
    Path("whisper").rename("moved")
    network = read_bundle(Path("bundle")).network
    assert not any("lora" in name for name in network.state_dict())
    tables = pd.read_csv(run).set_index("utterance")["arousal_raw"]
    utterances = [one for one in MSPPodcast(synthetic_corpus).utterances if one.utterance_id in tables.index]
    waveforms = [decode_utterance(one) for one in utterances]
    predicted = network.recognize(waveforms, [None] * len(waveforms)).predictions[:, 0]
    np.testing.assert_allclose(predicted, tables.loc[[one.utterance_id for one in utterances]], atol=1e-5)


def test_frozen_layers_and_a_checkpoint_without_adapters_are_refused_them(data, mistake):
    pytest.importorskip("peft", reason="the extra lora isn't installed")
    frozen = ["fit", *HUBERT, *configs("encoders/lora.yaml"), *data, *SHORT, "--model.encoder.freeze_layers", "2"]
    assert "every layer that would have adapters is frozen" in mistake(*frozen)
    assert ser("fit", *HUBERT, *data, *SHORT) == 0
    tested = ["test", "--ckpt_path", "finetune.ckpt", *HUBERT, *data]
    for flag, value in (("lora.rank", "2"), ("encoder.weighted_layers", "true")):
        line = mistake(*tested, f"--model.{flag}", value)
        assert re.search(rf"was trained with .*Leave --model\.{flag} out", line)
