"""What the model of one fold says of the fold's three sets: trained once, then read from its file."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ser_personal.calibration.table import PredictedSet
from ser_personal.corpus.csv_corpus import write_corpus
from ser_personal.files import atomic_write

if TYPE_CHECKING:
    from ser_personal.corpus.splits import SpeakerSplits

SER = str(Path(sys.executable).with_name("ser"))
CONFIGS = Path(__file__).parents[1] / "configs"
FILE = "predictions.npz"

Fold = dict[str, PredictedSet]


def predict_fold(splits: SpeakerSplits, folder: Path, epochs: int) -> None:
    """Fine-tune the tiny encoder on a fold and write down what it says of every utterance; nothing if that is done."""
    if (folder / FILE).exists():
        return
    table = folder / "corpus.csv"
    write_corpus((utterance for part in splits.sets.values() for utterance in part), table)
    command = [SER, "fit", "--config", str(CONFIGS / "finetune.yaml"), "--config", str(CONFIGS / "tiny/finetune.yaml")]
    command += ["--data.corpus", str(table), "--trainer.default_root_dir", str(folder)]
    command += ["--trainer.max_epochs", str(epochs), "--trainer.devices", "1", "--trainer.enable_progress_bar", "false"]
    subprocess.run(command, check=True)
    atomic_write(folder / FILE, _predictions(str(table), folder / "finetune.ckpt"))


def read_fold(folder: Path) -> Fold:
    """Set name -> its predictions, ordered by utterance id."""
    with np.load(folder / FILE, allow_pickle=False) as file:
        arrays = dict(file)
    whole = PredictedSet(
        predictions=arrays["predictions"],
        speaker_ids=tuple(arrays["speaker_ids"].tolist()),
        pooled=arrays["pooled"],
        labels=arrays["labels"],
    )
    return {name: whole.part(arrays["splits"] == name) for name in np.unique(arrays["splits"]).tolist()}


def _predictions(table: str, checkpoint: Path) -> bytes:
    """The .npz file: utterance_ids, speaker_ids, splits, predictions, pooled and labels, a row an utterance."""
    from lightning.pytorch import Trainer

    from ser_personal.data.emotion import EmotionDataModule
    from ser_personal.evaluation.prediction_collector import PredictionCollector
    from ser_personal.finetune.module import EmotionFineTuning

    data = EmotionDataModule(table, num_workers=0)
    model = EmotionFineTuning.load_from_checkpoint(checkpoint)
    trainer = Trainer(devices=1, logger=False, enable_progress_bar=False, use_distributed_sampler=False)
    trainer.datamodule = data  # type: ignore[attr-defined]
    collector = PredictionCollector()
    for split in data.corpus.splits.sets:
        for batch in trainer.predict(model, data.share_dataloader(split)) or []:
            collector.keep(trainer, model, batch)
    collected = collector.take_collected(trainer)
    assert collected is not None, "more than one process"
    utterances = collected.utterances
    content = io.BytesIO()
    np.savez(
        content,
        utterance_ids=[utterance.utterance_id for utterance in utterances],
        speaker_ids=[str(utterance.speaker_id) for utterance in utterances],
        splits=[utterance.split for utterance in utterances],
        predictions=collected.predicted.predictions,
        pooled=collected.predicted.pooled,
        labels=collected.predicted.labels,
    )
    return content.getvalue()
