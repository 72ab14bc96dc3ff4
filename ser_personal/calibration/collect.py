"""Predictions of a whole set, gathered from all devices, each utterance once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from ser_personal.calibration.table import PredictedSet
from ser_personal.files import named_in_errors
from ser_personal.gathering import gather_files

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from lightning.pytorch import LightningModule, Trainer
    from numpy.typing import NDArray

    from ser_personal.types import PredictionBatch, Utterance

    Arrays = dict[str, NDArray[Any]]

ARRAYS = ("indices", "pooled", "predictions", "labels")


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
        if trainer.world_size == 1:
            return _in_order([self._take_all()], utterances)
        return gather_files(
            trainer,
            trainer.default_root_dir,
            lambda path: _write(path, self._take_all()),
            lambda paths: _in_order([_read(path) for path in paths], utterances),
        )

    def _take_all(self) -> Arrays:
        """Give away what was kept."""
        batches, self._batches = self._batches, []
        if not batches:
            return {}
        return {name: torch.cat([batch[name] for batch in batches]).numpy() for name in ARRAYS}  # type: ignore[literal-required]


def _write(path: Path, arrays: Arrays) -> None:
    with named_in_errors(path), path.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def _read(path: Path) -> Arrays:
    with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)


def _in_order(shards: Sequence[Arrays], utterances: Sequence[Utterance]) -> CollectedSet:
    # a device without a batch has no arrays
    held = [shard for shard in shards if shard]
    indices, first = np.unique(np.concatenate([shard["indices"] for shard in held]), return_index=True)

    def column(name: str) -> NDArray[np.float64]:
        # taken out, so that no more than one column is held twice
        return np.concatenate([shard.pop(name) for shard in held])[first].astype(np.float64)

    return CollectedSet(
        indices,
        PredictedSet(
            predictions=column("predictions"),
            speaker_ids=tuple(utterances[index].speaker_id for index in indices),
            pooled=column("pooled"),
            labels=column("labels"),
        ),
    )


def predict_split(trainer: Trainer, module: LightningModule, split: str) -> Iterator[PredictionBatch]:
    """Predict this device's share of a set, outside the trainer's own loop; no utterance goes to two devices."""
    loader = trainer.datamodule.share_dataloader(split)  # type: ignore[attr-defined]
    for number, batch in enumerate(loader):
        moved = trainer.strategy.batch_to_device(batch, dataloader_idx=0)
        with trainer.precision_plugin.forward_context():
            yield module.predict_step(moved, number)
