from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fault import Good


@pytest.fixture(scope="session")
def good(
    synthetic_corpus, synthetic_pseudo_labels, papt_checkpoint, tested_checkpoint, bundle_folder, tmp_path_factory
) -> Good:
    vectors: Path = tmp_path_factory.mktemp("good") / "vectors.npz"
    run = tested_checkpoint.parent / "run" / "lightning_logs" / "version_0"
    utterances = pd.read_csv(run / "predictions.csv")["utterance"]
    np.savez(vectors, **dict(zip(utterances, np.random.default_rng(0).normal(size=(len(utterances), 16)), strict=True)))
    checkpoints = papt_checkpoint, tested_checkpoint, tested_checkpoint.with_suffix(".speaker_bank.safetensors")
    return Good(synthetic_corpus, synthetic_pseudo_labels, *checkpoints, run, bundle_folder, vectors)
