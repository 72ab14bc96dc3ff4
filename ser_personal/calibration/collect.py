"""Predictions of a set, gathered from all devices, and the speaker bank of a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info

from ser_personal.calibration.table import PredictedSet
from ser_personal.encoder.base import weights_fingerprint
from ser_personal.files import content_hash, gather_files, named_in_errors
from ser_personal.speakers.bank import SpeakerBank, SpeakerBankBuilder

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from lightning.pytorch import LightningModule, Trainer
    from numpy.typing import NDArray
    from torch import Tensor

    from ser_personal.types import PredictionBatch, Utterance

    Arrays = dict[str, NDArray[Any]]

ARRAYS = ("indices", "pooled", "predictions", "labels")


class CollectedSet(NamedTuple):
    """A predicted set, and `indices` (utterances,): its positions in the datamodule's `utterances`, ascending."""

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


def bank_fingerprint(weights: Mapping[str, Tensor], settings: object, training_utterances: Iterable[Utterance]) -> str:
    """Hash all that a bank depends on.

    Args:
        weights: of the personalised encoder, by name.
        settings: what else its frames depend on, by its `repr`.
        training_utterances: whose ids, speakers and labels count.
    """
    annotated = (f"{(each.utterance_id, each.speaker_id, sorted(each.labels.items()))}" for each in training_utterances)
    return content_hash(f"{settings}", weights_fingerprint(weights), *annotated)


def checkpoint_bank(trainer: Trainer, pl_module: LightningModule, attributes: tuple[str, ...]) -> SpeakerBank | None:
    """Load the bank of the tested model, or build and save it; after a build, None on all devices but the first."""
    data = trainer.datamodule  # type: ignore[attr-defined]
    training_set = [data.utterances[index] for index in data.train_indices]
    personalized: Any = pl_module.personalized
    features = data.speaker_features
    settings = (personalized.settings, data.max_samples, features and features.fingerprint())
    model = bank_fingerprint(personalized.state_dict(), settings, training_set)
    path = _bank_path(trainer)
    bank = _matching_bank(path, model, attributes, data.scale)
    # The first process decides for all: one on another machine may not see the file.
    if trainer.strategy.broadcast(bank is None):
        rank_zero_info(f"building the speaker bank over {len(training_set)} training utterances")
        builder = SpeakerBankBuilder(attributes, data.scale, model)
        for batch in predict_split(trainer, pl_module, "train"):
            builder.add(batch["speaker_ids"], batch["pooled"], batch["labels"])
        bank = _bank_of_all(trainer, builder)
        if bank is not None:
            bank.save(path)
    return bank


def _bank_path(trainer: Trainer) -> Path:
    if trainer.ckpt_path:
        return Path(trainer.ckpt_path).with_suffix(".speaker_bank.safetensors")
    return Path(trainer.log_dir or trainer.default_root_dir) / "speaker_bank.safetensors"


def _bank_of_all(trainer: Trainer, builder: SpeakerBankBuilder) -> SpeakerBank | None:
    def merge(paths: Sequence[Path]) -> None:
        for path in paths[1:]:
            builder.merge(path)

    if trainer.world_size > 1:
        gather_files(trainer, trainer.default_root_dir, builder.save, merge)
    return builder.build() if trainer.is_global_zero else None


def _matching_bank(
    path: Path, model: str, attributes: tuple[str, ...], scale: tuple[float, float]
) -> SpeakerBank | None:
    if not path.is_file():
        return None
    bank = SpeakerBank.load(path)
    matches = (bank.fingerprint, bank.attributes, bank.scale) == (model, attributes, scale)
    if matches and bank.training_mean is not None:
        return bank
    rank_zero_info(f"{path}: belongs to another model, corpus, scale or version, so it is built again")
    return None
