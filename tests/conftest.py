from __future__ import annotations

import csv
import os
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import settings
from tiny_models import emotion_data, finetuning, fit, papt, pretrain_data

from ser_personal.corpus.synthetic import synth
from ser_personal.pretrain.kmeans import kmeans
from ser_personal.pretrain.pseudo_label_data import PseudoLabelData

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

# A busy machine is no failure.
settings.register_profile("steady", deadline=None)
settings.register_profile("fuzz", deadline=None, max_examples=20_000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "steady"))

# Models this small spend several threads' time on waiting for each other.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def synthetic_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve speakers of six utterances each: speakers 1 to 8 for training, 9 for validation, 10 to 12 for test."""
    folder = tmp_path_factory.mktemp("synthetic") / "corpus"
    synth(str(folder), speakers=12, utterances=6, min_seconds=1.0, max_seconds=2.0)
    return folder


@pytest.fixture(scope="session")
def synthetic_pseudo_labels(synthetic_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve clusters of MFCC."""
    folder = tmp_path_factory.mktemp("synthetic") / "pseudo_labels"
    kmeans(PseudoLabelData(str(synthetic_corpus)), out=str(folder), num_clusters=12, iterations=10)
    return folder


@pytest.fixture(scope="session")
def papt_checkpoint(
    synthetic_corpus: Path, synthetic_pseudo_labels: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """PAPT of a few steps, its speaker embeddings no longer zero."""
    path = tmp_path_factory.mktemp("papt") / "papt.ckpt"
    data = pretrain_data(synthetic_corpus, synthetic_pseudo_labels)
    fit(papt(), data, path.parent, max_steps=4).save_checkpoint(path)
    return path


@pytest.fixture(scope="session")
def finetuned_checkpoint(
    synthetic_corpus: Path, papt_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Fine-tuned from PAPT for arousal and valence, a few steps."""
    path = tmp_path_factory.mktemp("finetune") / "finetune.ckpt"
    module = finetuning(papt_checkpoint=str(papt_checkpoint))
    fit(module, emotion_data(synthetic_corpus), path.parent, max_steps=4).save_checkpoint(path)
    return path


@pytest.fixture
def relabelled(synthetic_corpus: Path, tmp_path: Path) -> Callable[[Callable[[dict[str, str]], None]], Path]:
    """Makes a corpus of the same audio whose label rows an `edit` has changed in place."""

    def relabel(edit: Callable[[dict[str, str]], None]) -> Path:
        folder = tmp_path / "relabelled"
        (folder / "Labels").mkdir(parents=True)
        (folder / "Audios").symlink_to(synthetic_corpus / "Audios")
        with (synthetic_corpus / "Labels" / "labels_consensus.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        for row in rows:
            edit(row)
        with (folder / "Labels" / "labels_consensus.csv").open("w", newline="") as file:
            table = csv.DictWriter(file, list(rows[0]))
            table.writeheader()
            table.writerows(rows)
        return folder

    return relabel
