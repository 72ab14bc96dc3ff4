"""PLDC in `ser test`: builds the speaker bank, calibrates and scores the test sets, and writes the run's files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from jsonargparse.typing import PositiveInt
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from typing_extensions import override

from ser_personal.calibration.conformal import intervals_as_json
from ser_personal.calibration.divergence import speaker_shifts
from ser_personal.calibration.neighbours import speaker_vectors
from ser_personal.calibration.pldc import PLDC, PRIOR_UTTERANCES, Calibration, PLDCSettings
from ser_personal.calibration.table import PredictedSet, calibration_table, of_other_speakers, standard_calibrators
from ser_personal.data.datamodule import SpeechDataModule
from ser_personal.encoder.personalized import PersonalizedEncoder
from ser_personal.evaluation import run_files
from ser_personal.evaluation.prediction_collector import (
    CollectedSet,
    PredictionCollector,
    attributes_of,
    run_folder,
    score_set,
    write_test,
)
from ser_personal.evaluation.run_files import SpeakerVectors
from ser_personal.files import content_hash, gather_files
from ser_personal.scores import rows_by_speaker
from ser_personal.speakers.bank import SpeakerBank, SpeakerBankBuilder
from ser_personal.speakers.embedding import SpeakerEmbedding
from ser_personal.types import PredictionBatch, Seed

if TYPE_CHECKING:
    from ser_personal.evaluation.prediction_collector import Scored


class PLDCCallback(PredictionCollector):
    """Personalised label distribution calibration of a test run (paper, section 2.3).

    Every variant of `calibrate` is scored in each test; the switches choose the one that predictions.csv holds.

    Writes predictions.csv, metrics.json, speaker_moments.csv (for `ser compare`), speakers.json (each test speaker's
    neighbours) and speakers.safetensors to the run's folder, and the speaker bank next to the checkpoint.

    Args:
        draws: number of random sets of speakers in the control `random_speakers`.
        seed: for drawing them.
        settings: the fields of PLDCSettings, but for `prior_utterances`.
    """

    def __init__(self, *, draws: PositiveInt = 20, seed: Seed = 0, **settings: Any) -> None:
        super().__init__()
        # the one setting that is of causal calibration alone
        self.settings = PLDCSettings(prior_utterances=PRIOR_UTTERANCES, **settings)
        self.draws, self.seed = draws, seed

    on_test_batch_end = PredictionCollector.keep

    @override
    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.bank = checkpoint_bank(trainer, pl_module, attributes_of(pl_module, self))
        self.validation: PredictedSet | None = None
        if trainer.datamodule.corpus.splits.validation:  # type: ignore[attr-defined]
            for batch in predict_split(trainer, pl_module, "validation"):
                self.keep(trainer, pl_module, batch)
            validation = self.take_collected(trainer)
            self.validation = validation and validation.predicted

    @override
    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        data, model = trainer.datamodule, cast("Any", pl_module)  # type: ignore[attr-defined]
        collected = self.take_tested(trainer)
        if collected is None or self.bank is None:
            return
        pldc = PLDC(self.bank, self.bank.attributes, self.settings)
        predictions, vectors = np.empty_like(collected.predicted.predictions), _known_vectors(self.bank, model)
        scored, speakers = {}, {}
        # each set by itself: a speaker may stand in several
        for split, (rows, tested) in collected.by_split().items():
            test = tested.predicted
            calibration = pldc.calibration(test.predictions, test.speaker_ids, test.pooled)
            predictions[rows] = calibration.predictions
            scored[split] = self._score(pldc, calibration, tested, model, data)
            speakers[split], vectors[split] = _describe(pldc, calibration, tested)
        of_bank = {"model": self.bank.fingerprint, "training_speakers": len(self.bank.speaker_ids)}
        write_test(trainer, model, collected, scored, predictions, **of_bank, pldc=asdict(self.settings))
        training = run_files.describe_audio([data.utterances[index] for index in data.train_indices])
        record = {"fusion": str(model.personalized.fusion_name), "splits": speakers, "training": training}
        run_files.write_speakers(run_folder(trainer), record, vectors)

    def _score(self, pldc: PLDC, calibration: Calibration, tested: CollectedSet, model: Any, data: Any) -> Scored:
        utterances, test = tested
        validation = self.validation and of_other_speakers(self.validation, test, utterances[0].split)
        calibrators = standard_calibrators(pldc, validation, draws=self.draws, seed=self.seed)
        least = model.metric.min_utterances
        table_of = partial(calibration_table, pldc=pldc, calibrators=calibrators, min_utterances=least)
        record, moments = score_set(model, data, tested, table_of)
        if validation is not None:
            calibrated = pldc(validation.predictions, validation.speaker_ids, validation.pooled)
            sets = replace(validation, predictions=calibrated), replace(test, predictions=calibration.predictions)
            record["intervals"] = intervals_as_json(*sets, pldc.attributes, pldc.bank.scale)
        return record, moments


def _known_vectors(bank: SpeakerBank, model: Any) -> dict[str, SpeakerVectors]:
    vectors = {run_files.TRAINING: SpeakerVectors(bank.speaker_ids, bank.vectors)}
    embedding = model.personalized.speakers
    embedded = tuple(each for each in embedding.ids if each not in embedding.namesakes)
    if embedded and isinstance(embedding, SpeakerEmbedding):
        with torch.inference_mode():
            vectors[run_files.EMBEDDINGS] = SpeakerVectors(embedded, embedding(embedded).float().cpu().numpy())
    return vectors


def _describe(pldc: PLDC, calibration: Calibration, tested: CollectedSet) -> tuple[dict[str, Any], SpeakerVectors]:
    utterances, test = tested
    shifts = speaker_shifts(test.speaker_ids, test.pooled, test.labels, pldc.bank, pldc.attributes)
    rows_of = rows_by_speaker(test.speaker_ids)
    vectors = SpeakerVectors(tuple(rows_of), speaker_vectors(test.pooled, rows_of))
    return run_files.describe_speakers(utterances, calibration, shifts), vectors


def predict_split(trainer: Trainer, module: LightningModule, split: str) -> Iterator[PredictionBatch]:
    """Predict this device's share of a set, outside the trainer's own loop; no utterance goes to two devices."""
    for number, batch in enumerate(trainer.datamodule.share_dataloader(split)):  # type: ignore[attr-defined]
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
    used = (f"{(u.utterance_id, u.speaker_id, sorted(u.labels.items()), data.input_key(u))}" for u in training)
    return f"{content_hash(f'{settings}', model, *used)}-{model}"


def checkpoint_bank(trainer: Trainer, pl_module: LightningModule, attributes: tuple[str, ...]) -> SpeakerBank | None:
    """Load the bank of the tested model, or build and save it; after a build, None on all devices but the first."""
    data = trainer.datamodule  # type: ignore[attr-defined]
    fingerprint = bank_fingerprint(cast("Any", pl_module).personalized, data, trainer.precision)
    path = _bank_path(trainer, fingerprint)
    bank = SpeakerBank.load(path) if path.is_file() else None
    if bank is not None and (bank.fingerprint, bank.attributes, bank.scale) != (fingerprint, attributes, data.scale):
        rank_zero_info(f"{path}: of another model, training set, audio, precision or scale, so it is built again")
        bank = None
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
            bank.save(path)
            rank_zero_info(f"written: {path}")
    return bank


def _bank_path(trainer: Trainer, fingerprint: str) -> Path:
    """Beside the checkpoint; of another corpus, or where nobody may write there, beside the run's folders."""
    if not trainer.ckpt_path:
        return run_folder(trainer) / "speaker_bank.safetensors"
    beside = Path(trainer.ckpt_path).with_suffix(".speaker_bank.safetensors")
    is_theirs = trainer.datamodule.is_training_corpus and os.access(beside.parent, os.W_OK)  # type: ignore[attr-defined]
    return beside if is_theirs else Path(trainer.default_root_dir) / f"{fingerprint[:8]}-{beside.name}"
