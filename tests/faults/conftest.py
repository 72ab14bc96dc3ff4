from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
from fault import Good
from tiny_models import emotion_data, finetuning, trainer

from ser_personal import PLDCCallback
from ser_personal.sharing.export import export

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session")
def good(synthetic_corpus, synthetic_pseudo_labels, papt_checkpoint, finetuned_checkpoint, tmp_path_factory) -> Good:
    folder: Path = tmp_path_factory.mktemp("good")
    path = folder / "finetune.ckpt"
    shutil.copy(finetuned_checkpoint, path)
    running = trainer(folder, callbacks=[PLDCCallback(k=3, draws=1)])
    running.test(finetuning(), datamodule=emotion_data(synthetic_corpus), ckpt_path=path, verbose=False)
    export(str(path), str(folder / "bundle"))
    rng = np.random.default_rng(0)
    run = folder / "lightning_logs" / "version_0"
    utterances = pd.read_csv(run / "predictions.csv")["utterance"]
    np.savez(folder / "vectors.npz", **{utterance: rng.normal(size=16) for utterance in utterances})
    return Good(
        corpus=synthetic_corpus,
        pseudo_labels=synthetic_pseudo_labels,
        papt=papt_checkpoint,
        finetune=path,
        bank=path.with_suffix(".speaker_bank.safetensors"),
        run=run,
        bundle=folder / "bundle",
        vectors=folder / "vectors.npz",
    )
