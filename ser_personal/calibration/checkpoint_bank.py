"""The speaker bank of a tested checkpoint: the one beside it where that matches, else built over the training split."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch.utilities import rank_zero_info

from ser_personal.calibration.collect import predict_split
from ser_personal.calibration.fingerprint import fingerprint
from ser_personal.gathering import gather_files
from ser_personal.speakers.bank import SpeakerBank, SpeakerBankBuilder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lightning.pytorch import LightningModule, Trainer


def checkpoint_bank(trainer: Trainer, pl_module: LightningModule, attributes: tuple[str, ...]) -> SpeakerBank | None:
    """Load the bank, or build and save it; None on all devices but the first, where they had to build it.

    Args:
        trainer: of the test.
        pl_module: the tested model.
        attributes: that it predicts.
    """
    data = trainer.datamodule  # type: ignore[attr-defined]
    training_set = [data.utterances[index] for index in data.train_indices]
    personalized: Any = pl_module.personalized
    features = data.speaker_features
    settings = (personalized.settings, data.max_samples, features and features.fingerprint())
    model = fingerprint(personalized.state_dict().items(), settings, training_set)
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
    """Where the speaker bank of the tested checkpoint lies: beside it, or in the run's folder where there is none."""
    if trainer.ckpt_path:
        return Path(trainer.ckpt_path).with_suffix(".speaker_bank.safetensors")
    return Path(trainer.log_dir or trainer.default_root_dir) / "speaker_bank.safetensors"


def _bank_of_all(trainer: Trainer, builder: SpeakerBankBuilder) -> SpeakerBank | None:
    """Join the sums of all devices; the first gets the bank, the others None."""

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
    rank_zero_info(f"{path}: is of another model, corpus, scale or version, so it is built anew")
    return None
