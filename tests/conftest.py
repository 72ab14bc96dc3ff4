from __future__ import annotations

import csv
import os
import shutil
import time
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import settings
from tiny_models import emotion_data, finetuning, fit, papt, pretrain_data

from ser_personal.corpus.synthetic import synth
from ser_personal.pretrain.kmeans import PseudoLabelData, kmeans

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
def make_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], object]], Path]:
    """Makes a folder once for all of pytest-xdist's workers; each gets a copy of its own."""
    root = tmp_path_factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root

    def once(name: str, make: Callable[[Path], object]) -> Path:
        made = root / f"made-{name}"
        try:
            made.mkdir()
        except FileExistsError:
            while not any((made / outcome).exists() for outcome in ("done", "failed")):
                time.sleep(0.1)
        else:
            (made / name).mkdir()
            try:
                make(made / name)
            except BaseException:
                (made / "failed").touch()
                raise
            (made / "done").touch()
        assert (made / "done").exists(), f"another worker couldn't make {name}"
        return shutil.copytree(made / name, tmp_path_factory.mktemp(name) / name, symlinks=True)

    return once


@pytest.fixture(scope="session")
def synthetic_corpus(make_once) -> Path:
    """Twelve speakers of six utterances each: speakers 1 to 8 for training, 9 for validation, 10 to 12 for test."""
    options = {"speakers": 12, "utterances": 6, "min_seconds": 1.0, "max_seconds": 2.0}
    return make_once("corpus", lambda folder: synth(str(folder), **options))


@pytest.fixture(scope="session")
def synthetic_pseudo_labels(make_once, synthetic_corpus: Path) -> Path:
    """Twelve clusters of MFCC."""

    def make(folder: Path) -> None:
        kmeans(PseudoLabelData(str(synthetic_corpus)), out=str(folder), num_clusters=12, iterations=10)

    return make_once("pseudo_labels", make)


@pytest.fixture(scope="session")
def papt_checkpoint(make_once, synthetic_corpus: Path, synthetic_pseudo_labels: Path) -> Path:
    """PAPT of a few steps, its speaker embeddings no longer zero."""

    def make(folder: Path) -> None:
        data = pretrain_data(synthetic_corpus, synthetic_pseudo_labels)
        fit(papt(), data, folder, max_steps=4).save_checkpoint(folder / "papt.ckpt")

    return make_once("papt", make) / "papt.ckpt"


@pytest.fixture(scope="session")
def finetuned_checkpoint(make_once, synthetic_corpus: Path, papt_checkpoint: Path) -> Path:
    """Fine-tuned from PAPT for arousal and valence, a few steps."""

    def make(folder: Path) -> None:
        module = finetuning(papt_checkpoint=str(papt_checkpoint))
        fit(module, emotion_data(synthetic_corpus), folder, max_steps=4).save_checkpoint(folder / "finetune.ckpt")

    return make_once("finetune", make) / "finetune.ckpt"


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
