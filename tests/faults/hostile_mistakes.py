"""What is mistyped, forgotten, or of another corpus, codebook or stage."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import soundfile
import torch
from fault import FINETUNE, FIT, HEADER, PAPT, TEST, Fault, Good, labels, text

from ser_personal.pretrain.kmeans import PseudoLabelData, kmeans

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

HERE = ["--data.corpus", "{here}/corpus"]
LABELLED = [*PAPT, "{pseudo_labels}"]
WITHOUT_CORPUS = ["fit", *FINETUNE, "--data.corpus"]


def copied_corpus(samples: int, *, only_first: bool = True) -> Callable[[Good, Path], object]:
    """The corpus with other sounds in its training set, of so many samples; none at all if 0."""

    def make(good: Good, here: Path) -> None:
        copy = shutil.copytree(good.corpus, here / "corpus")
        lines = (copy / "Labels" / "labels_consensus.csv").read_text().splitlines()
        names = [line.split(",")[0] for line in lines if ",Train" in line]
        for name in names[:1] if only_first else names:
            (copy / "Audios" / name).unlink()
            if samples:
                soundfile.write(copy / "Audios" / name, np.zeros(samples), 16_000)

    return make


def without_valence(good: Good, here: Path) -> None:
    (here / "corpus" / "Labels").mkdir(parents=True)
    (here / "corpus" / "Audios").symlink_to(good.corpus / "Audios")
    labelled = pd.read_csv(good.corpus / "Labels" / "labels_consensus.csv", dtype=str, keep_default_na=False)
    labelled.assign(EmoVal="").to_csv(here / "corpus" / "Labels" / "labels_consensus.csv", index=False)


def clustered(**settings: int) -> Callable[[Good, Path], object]:
    return lambda good, here: kmeans(PseudoLabelData(str(good.corpus)), out=str(here / "o"), iterations=10, **settings)


CLEAN = ".*`ser check CORPUS --write clean.csv`"
OTHER_SOUND = [
    ("no sound to train on", [*FIT, *HERE], rf"Audios/\S+\.wav: .*missing or unreadable{CLEAN}", copied_corpus(0)),
    ("a sound too short for PAPT", [*LABELLED, *HERE], rf"Audios/\S+\.wav: .*shorter{CLEAN}", copied_corpus(399)),
    (
        "pseudo-labels of other sounds",
        [*LABELLED, *HERE],
        r"pseudo-labels for the \d+ frames of.*Run `ser kmeans`",
        copied_corpus(20_000, only_first=False),
    ),
]
OTHER_CODEBOOK = [*PAPT[1:], "{here}/o", "--ckpt_path", "{papt}"]
OTHER_CORPUS = [
    ("no corpus", [*WITHOUT_CORPUS, "{here}/nowhere"], "nowhere: no such corpus.*Give a folder with Labels and Audios"),
    (
        "a path for a class of corpora",
        ["check", "{here}/c.csv", "--corpus.scale", "[1,5]"],
        r"c\.csv: a path takes no arguments\. Give a class .*such as CSVCorpus --corpus.path",
        text("c.csv", ""),
    ),
    (
        "fewer seconds than none",
        ["check", "CSVCorpus", "--corpus.path", "{here}/c.csv", "--corpus.adaptation_seconds", "-1"],
        "--corpus.adaptation_seconds: -1 is out of range",
    ),
    (
        "no label file",
        [*WITHOUT_CORPUS, "{here}"],
        "/Labels: no label file.*Give the release",
        lambda _good, here: (here / "Labels").mkdir(),
    ),
    (
        "a label beyond the scale",
        [*WITHOUT_CORPUS, "{here}"],
        r"labels_consensus\.csv, .*(EmoAct|arousal) is 8\.5, outside the scale 1 to 7.*Correct the label",
        labels("labels_consensus.csv", HEADER + "a.wav,N,8.5,4,4,1,Male,Train\n"),
    ),
    (
        "an attribute that isn't",
        [*FIT, "--model.attributes", "[arousal,anger]"],
        "--model.attributes: anger is none of 'arousal', 'valence', 'dominance'",
    ),
    (
        "an attribute without labels",
        [*FIT, *HERE],
        "--model.attributes: .* label of valence.*arousal, dominance",
        without_valence,
    ),
    ("no pseudo-labels", [*PAPT, "{here}/none"], "none: no pseudo-labels here.*`ser kmeans`"),
    (
        "pseudo-labels of another codebook",
        ["validate", *OTHER_CODEBOOK],
        "codebook|pseudo-labels",
        clustered(num_clusters=12, seed=1),
    ),
]
OTHER_CHECKPOINT = [
    (
        "a foreign checkpoint",
        [*FIT, "--model.papt_checkpoint", "{here}/x.ckpt"],
        "{here}/x.ckpt: .*isn't a checkpoint.*`ser fit`",
        lambda _good, here: torch.save({"state_dict": {}, "hyper_parameters": {}}, here / "x.ckpt"),
    ),
    (
        "a checkpoint of another stage",
        [*FIT, "--model.papt_checkpoint", "{finetune}"],
        "finetune.ckpt: isn't a checkpoint of PAPT or TAPT.*configs/papt.yaml",
    ),
    ("nothing to test", TEST, "ser test: no checkpoint to score.*Give --ckpt_path"),
    # Lightning's words
    ("the last checkpoint to test", [*TEST, "--ckpt_path", "last"], "last: no such checkpoint.*give its path"),
    (
        "a folder that is a file",
        [*LABELLED, "--trainer.default_root_dir", "{here}/taken"],
        "taken.*: (Not a directory|File exists).*Check the path",
        text("taken", ""),
    ),
    ("embeddings that nobody learns", [*FIT, "--model.fusion", "first"], r"--model\.fusion first.*papt_checkpoint"),
]
MISTAKES = [Fault(*row) for row in (*OTHER_SOUND, *OTHER_CORPUS, *OTHER_CHECKPOINT)]
