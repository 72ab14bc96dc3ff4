"""PLDC in `ser test`: builds the speaker bank, calibrates and scores the test sets, and writes the run's files."""

from __future__ import annotations

import os
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from jsonargparse.typing import PositiveInt
from lightning.pytorch.utilities import rank_zero_info
from typing_extensions import override

from ser_personal.calibration.conformal import intervals_as_json
from ser_personal.calibration.divergence import speaker_shifts
from ser_personal.calibration.pldc import PLDC, PRIOR_UTTERANCES, PLDCSettings
from ser_personal.calibration.table import (
    PredictedSet,
    calibration_table,
    speaker_moments,
    standard_calibrators,
)
from ser_personal.evaluation.prediction_collector import (
    Collector,
    PredictionCollector,
    attribute_metrics,
    attributes_of,
    print_and_record,
    run_folder,
    score_set,
    write_test,
)
from ser_personal.evaluation.run_files import (
    EMBEDDINGS,
    TRAINING,
    SpeakerVectors,
    describe_audio,
    describe_speakers,
    predictions_table,
    write_moments,
    write_speakers,
)
from ser_personal.files import content_hash, gather_files
from ser_personal.speakers.bank import SpeakerBank, SpeakerBankBuilder
from ser_personal.speakers.embedding import SpeakerEmbedding
from ser_personal.types import Seed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from lightning.pytorch import LightningModule, Trainer

    from ser_personal.calibration.controls import Calibrator
    from ser_personal.data.datamodule import SpeechDataModule
    from ser_personal.encoder.personalized import PersonalizedEncoder
    from ser_personal.evaluation.prediction_collector import Scored
    from ser_personal.types import PredictionBatch


def learnt_embeddings(personalized: Any) -> dict[str, SpeakerVectors]:
    """The learnt e_s of the speakers in the table, under `embeddings`; nothing where there is no table."""
    speakers = personalized.speakers
    known = [each for each in speakers.ids if each not in speakers.namesakes]
    if not known or not isinstance(speakers, SpeakerEmbedding):
        return {}
    with torch.inference_mode():
        learnt = speakers(known).float().cpu().numpy()
    return {EMBEDDINGS: SpeakerVectors(tuple(known), learnt)}


class PLDCCallback(PredictionCollector):
    """Personalised label distribution calibration of a test run (paper, section 2.3).

    By default the standard deviation alone is scaled, which has the highest A-CCC in the paper: every variant lowers
    O-CCC, and only those that scale it raise A-CCC. `shift_mean` and `scale_std` together are the paper's full
    equation. Every variant is scored in each test; the switches choose the one that predictions.csv holds.

    Writes predictions.csv, metrics.json, speaker_moments.csv (for `ser compare`), speakers.json (each test speaker's
    neighbours) and speakers.safetensors to the run's folder, and the speaker bank next to the checkpoint.

    Args:
        draws: of the control with random speakers.
        seed: of these draws.
        settings: the fields of PLDCSettings, but for `prior_utterances`.
    """

    def __init__(self, *, draws: PositiveInt = 20, seed: Seed = 0, **settings: Any) -> None:
        super().__init__()
        # the one setting that is of causal calibration alone
        self.settings = PLDCSettings(prior_utterances=PRIOR_UTTERANCES, **settings)
        self.draws = draws
        self.seed = seed
        self.bank: SpeakerBank | None = None
        self.validation: PredictedSet | None = None

    on_test_batch_end = PredictionCollector.keep

    @override
    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.bank = checkpoint_bank(trainer, pl_module, attributes_of(pl_module, self))
        self.validation = None
        if trainer.datamodule.corpus.splits.validation:  # type: ignore[attr-defined]
            for batch in predict_split(trainer, pl_module, "validation"):
                self.collector.add(batch)
            validation = self.collected(trainer)
            self.validation = None if validation is None else validation.predicted
        self.collector = Collector()

    @override
    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        data, model, collected = trainer.datamodule, cast("Any", pl_module), self.collected(trainer)  # type: ignore[attr-defined]
        folder = run_folder(trainer)
        if collected is None or self.bank is None:
            return
        pldc = PLDC(self.bank, attributes_of(pl_module, self), self.settings)
        least = model.test_metric.min_utterances

        def calibrated(part: PredictedSet) -> PredictedSet:
            return replace(part, predictions=pldc(part.predictions, part.speaker_ids, part.pooled))

        predictions = np.empty_like(collected.predicted.predictions)
        splits, speakers, moments = {}, {}, []
        vectors = {TRAINING: SpeakerVectors(self.bank.speaker_ids, self.bank.vectors)}
        vectors |= learnt_embeddings(model.personalized)
        # each set by itself: a speaker may stand in several
        for split, (rows, tested) in collected.by_split().items():
            utterances, test = tested
            calibration = pldc.calibration(test.predictions, test.speaker_ids, test.pooled)
            predictions[rows] = calibration.predictions
            shifts = speaker_shifts(test.speaker_ids, test.pooled, test.labels, self.bank, pldc.attributes)
            speakers[split] = describe_speakers(utterances, calibration, shifts)
            vectors[split] = SpeakerVectors.of_utterances(test.speaker_ids, test.pooled)
            validation = self._validation_of_others(split, test)
            calibrators = standard_calibrators(pldc, validation, draws=self.draws, seed=self.seed)
            splits[split], table = score_set(model, data, tested, partial(_scored, pldc, calibrators, least))
            if validation is not None:
                splits[split]["intervals"] = intervals_as_json(
                    calibrated(validation), calibrated(test), pldc.attributes, self.bank.scale
                )
            moments.append(speaker_moments(split, table, test.labels, test.speaker_ids))
        metrics = attribute_metrics(model, data, splits)
        metrics |= {"model": self.bank.fingerprint, "pldc": asdict(self.settings)}
        metrics["training_speakers"] = len(self.bank.speaker_ids)
        write_test(trainer, folder, predictions_table(collected, predictions, pldc.attributes), metrics)
        write_moments(folder, moments)
        training = describe_audio([data.utterances[index] for index in data.train_indices])
        record = {"fusion": str(model.personalized.fusion_name), "splits": speakers, "training": training}
        write_speakers(folder, record, vectors)

    def _validation_of_others(self, split: str, test: PredictedSet) -> PredictedSet | None:
        """The validation set without the tested speakers: what is fitted on their labels would be no result."""
        if self.validation is None:
            return None
        # unknown speakers are others, unless it is the same set
        others = self.validation.without({*test.speaker_ids} - ({None} if split != "validation" else set()))
        if len(others.speaker_ids) < len(self.validation.speaker_ids):
            rank_zero_info(
                f"{split}: shares speakers with validation, so what is fitted there (affine, posterior, intervals) is "
                + ("fitted on the others" if others.speaker_ids else "left out")
            )
        return others if others.speaker_ids else None


def _scored(
    pldc: PLDC, calibrators: Mapping[str, Calibrator], min_utterances: int, name: str, part: PredictedSet
) -> Scored:
    table = calibration_table(part, pldc, calibrators, min_utterances=min_utterances)
    return print_and_record(name, part, table, min_utterances)


def predict_split(trainer: Trainer, module: LightningModule, split: str) -> Iterator[PredictionBatch]:
    """Predict this device's share of a set, outside the trainer's own loop; no utterance goes to two devices."""
    loader = trainer.datamodule.share_dataloader(split)  # type: ignore[attr-defined]
    for number, batch in enumerate(loader):
        moved = trainer.strategy.batch_to_device(batch, dataloader_idx=0)
        with trainer.precision_plugin.forward_context():
            yield module.predict_step(moved, number)


def bank_fingerprint(personalized: PersonalizedEncoder, data: SpeechDataModule[Any], precision: object) -> str:
    """Hash all that a bank depends on; the hash of its model alone follows a hyphen.

    Audio counts by its file's path, size and time of change, for a corpus is too large to be read at each test: where
    it was only copied, the bank is built again for nothing.
    """
    model, features = personalized.fingerprint(), data.speaker_features
    settings = (personalized.describe() | {"pretrained_on": ""}, precision, features and features.fingerprint())
    training = (data.utterances[index] for index in data.train_indices)
    used = (
        f"{(each.utterance_id, each.speaker_id, sorted(each.labels.items()), data.input_key(each))}"
        for each in training
    )
    return f"{content_hash(f'{settings}', model, *used)}-{model}"


def checkpoint_bank(trainer: Trainer, pl_module: LightningModule, attributes: tuple[str, ...]) -> SpeakerBank | None:
    """Load the bank of the tested model, or build and save it; after a build, None on all devices but the first."""
    data = trainer.datamodule  # type: ignore[attr-defined]
    fingerprint = bank_fingerprint(cast("Any", pl_module).personalized, data, trainer.precision)
    paths = _bank_paths(trainer, fingerprint)
    matching = (_matching_bank(path, fingerprint, attributes, data.scale) for path in paths)
    bank = next((found for found in matching if found is not None), None)
    # The first process decides for all: one on another machine may not see the file.
    if trainer.strategy.broadcast(bank is None):
        rank_zero_info(f"building the speaker bank over {len(data.train_indices)} training utterances")
        builder = SpeakerBankBuilder(attributes, data.scale, fingerprint)
        for batch in predict_split(trainer, pl_module, "train"):
            builder.add(batch["speaker_ids"], batch["pooled"], batch["labels"])
        if trainer.world_size > 1:
            merge: Any = builder.merge
            gather_files(trainer, trainer.default_root_dir, builder.save, lambda paths: [*map(merge, paths[1:])])
        bank = builder.build() if trainer.is_global_zero else None
        if bank is not None:
            path = next((path for path in paths if os.access(path.parent, os.W_OK)), paths[-1])
            bank.save(path)
            rank_zero_info(f"written: {path}")
    return bank


def _bank_paths(trainer: Trainer, fingerprint: str) -> list[Path]:
    """Where the bank may lie, beside the checkpoint first; of another corpus than its own beside the run's folders.

    And so where nobody may write beside the checkpoint.
    """
    if not trainer.ckpt_path:
        return [run_folder(trainer) / "speaker_bank.safetensors"]
    beside = Path(trainer.ckpt_path).with_suffix(".speaker_bank.safetensors")
    elsewhere = Path(trainer.default_root_dir) / f"{fingerprint[:8]}-{beside.name}"
    is_own_corpus = trainer.datamodule.is_training_corpus  # type: ignore[attr-defined]
    return [beside, elsewhere] if is_own_corpus else [elsewhere]


def _matching_bank(
    path: Path, fingerprint: str, attributes: tuple[str, ...], scale: tuple[float, float]
) -> SpeakerBank | None:
    if not path.is_file():
        return None
    bank = SpeakerBank.load(path)
    if (bank.fingerprint, bank.attributes, bank.scale) == (fingerprint, attributes, scale):
        return bank
    rank_zero_info(f"{path}: of another model, training set, audio, precision or scale, so it is built again")
    return None
