"""Predictions of a whole set, gathered from all devices, each utterance once."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from ser_personal.calibration.table import PredictedSet

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lightning.pytorch import LightningModule, Trainer
    from numpy.typing import NDArray

    from ser_personal.types import PredictionBatch, Utterance


class CollectedSet(NamedTuple):
    """A predicted set and where its utterances stand.

    Attributes:
        indices: (utterances,), positions in the datamodule's `utterances`, ascending.
        predicted: the set, in that order.
    """

    indices: NDArray[np.int64]
    predicted: PredictedSet


class Collector:
    """Keeps one device's predictions and, at the end, joins those of all devices through files.

    Gathering through files needs the memory of one device's share on each device but the first, and doesn't hang
    where devices have different numbers of batches.
    """

    def __init__(self) -> None:
        self._batches: list[PredictionBatch] = []

    def add(self, batch: PredictionBatch) -> None:
        """Keep a batch."""
        self._batches.append(
            {
                "indices": batch["indices"].cpu(),
                "speaker_ids": batch["speaker_ids"],
                "pooled": batch["pooled"].float().cpu(),
                "predictions": batch["predictions"].float().cpu(),
                "labels": batch["labels"].float().cpu(),
            }
        )

    def join(self, trainer: Trainer, utterances: Sequence[Utterance]) -> CollectedSet | None:
        """Join the predictions of all devices; the first gets the set, the others None. Call it on every device."""
        mine = {
            name: torch.cat([batch[name] for batch in self._batches]).numpy()
            for name in ("indices", "pooled", "predictions", "labels")
        }
        self._batches = []
        shards = [mine]
        if trainer.world_size > 1:
            folder = Path(trainer.strategy.broadcast(_new_folder(trainer)))
            np.savez(folder / f"{trainer.global_rank}.npz", **mine)  # type: ignore[arg-type]  # its stubs take arrays for flags
            trainer.strategy.barrier("predictions written")
            if trainer.is_global_zero:
                shards = [_read(folder / f"{rank}.npz") for rank in range(trainer.world_size)]
                shutil.rmtree(folder)
            trainer.strategy.barrier("predictions read")
        return _in_order(shards, utterances) if trainer.is_global_zero else None


def _new_folder(trainer: Trainer) -> str:
    """Make a folder that every process sees and no other run has; the first process's answer counts."""
    if not trainer.is_global_zero:
        return ""
    root = Path(trainer.default_root_dir)
    root.mkdir(parents=True, exist_ok=True)
    return tempfile.mkdtemp(prefix=".gather-", dir=root)


def _read(path: Path) -> dict[str, NDArray[np.float32]]:
    with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)


def _in_order(shards: Sequence[dict[str, NDArray[np.float32]]], utterances: Sequence[Utterance]) -> CollectedSet:
    joined = {name: np.concatenate([shard[name] for shard in shards]) for name in shards[0]}
    indices, first = np.unique(joined["indices"].astype(np.int64), return_index=True)
    return CollectedSet(
        indices,
        PredictedSet(
            predictions=joined["predictions"][first].astype(np.float64),
            speaker_ids=tuple(utterances[index].speaker_id for index in indices),
            pooled=joined["pooled"][first].astype(np.float64),
            labels=joined["labels"][first].astype(np.float64),
        ),
    )


def predict_split(trainer: Trainer, module: LightningModule, split: str) -> Iterator[PredictionBatch]:
    """Predict this device's share of a set, outside the trainer's own loop over the test set."""
    loader = trainer.datamodule.split_dataloader(split)  # type: ignore[attr-defined]
    for number, batch in enumerate(loader):
        moved = trainer.strategy.batch_to_device(batch, dataloader_idx=0)
        with trainer.precision_plugin.forward_context():
            yield module.predict_step(moved, number)
