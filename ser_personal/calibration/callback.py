"""PLDC in `ser test`: builds the speaker bank, calibrates the test sets, prints and writes what came of it."""

from __future__ import annotations

from dataclasses import asdict, replace
from math import isnan
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from jsonargparse.typing import PositiveInt
from lightning.pytorch import Callback
from lightning.pytorch.utilities import rank_zero_info
from typing_extensions import override

from ser_personal.calibration.collect import CollectedSet, Collector, checkpoint_bank, predict_split
from ser_personal.calibration.conformal import intervals_as_json
from ser_personal.calibration.pldc import PLDC, PLDCSettings, Statistics
from ser_personal.calibration.run_files import (
    COST,
    EMBEDDINGS,
    METRICS,
    PREDICTIONS,
    TRAINING,
    SpeakerVectors,
    condition,
    count_conditions,
    describe_correlations,
    describe_speakers,
    describe_training,
    emotion_frame,
    predictions_frame,
    rows_as_json,
    write_csv,
    write_json,
    write_moments,
    write_speakers,
)
from ser_personal.calibration.shift import speaker_shifts
from ser_personal.calibration.table import (
    LEGEND,
    PredictedSet,
    calibration_table,
    print_scores,
    speaker_moments,
    standard_calibrators,
)
from ser_personal.errors import UserError
from ser_personal.finetune.metrics import NO_EMOTION, classification_scores, emotions_of
from ser_personal.ranges import Seed
from ser_personal.speakers.embedding import SpeakerEmbedding
from ser_personal.speakers.representation import SpeakerQuery

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from lightning.pytorch import LightningModule, Trainer
    from numpy.typing import NDArray

    from ser_personal.calibration.table import CalibrationRow
    from ser_personal.speakers.bank import SpeakerBank
    from ser_personal.types import Utterance


class Collecting(Callback):
    """Keeps the predictions of all batches; a subclass makes `keep` the hook of a stage."""

    def __init__(self) -> None:
        super().__init__()
        self.collector = Collector()

    def keep(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *_: Any, **__: Any) -> None:
        """Keep a batch's predictions."""
        self.collector.add(outputs)

    def collected(self, trainer: Trainer) -> CollectedSet | None:
        """Join the predictions of all devices, on the first; None on the others."""
        return self.collector.join(trainer, trainer.datamodule.utterances)  # type: ignore[attr-defined]


def run_folder(trainer: Trainer) -> Path:
    """The folder of the run's files, which all devices have to ask for: the first tells the others."""
    return Path(trainer.log_dir or trainer.default_root_dir)


def learnt_embeddings(personalized: Any) -> dict[str, SpeakerVectors]:
    """The learnt e_s of the speakers in the table, under `embeddings`; nothing where there is no table."""
    speakers = personalized.speakers
    if not speakers.ids or not isinstance(speakers, SpeakerEmbedding):
        return {}
    with torch.inference_mode():
        learnt = speakers(SpeakerQuery(speakers.ids)).float().cpu().numpy()
    return {EMBEDDINGS: SpeakerVectors(tuple(speakers.ids), learnt)}


def cost(trainer: Trainer, pl_module: LightningModule, seconds: float, speech_seconds: float) -> dict[str, Any]:
    """Parameters, and the seconds that a test without calibration took over so many seconds of speech."""
    weights = list(pl_module.parameters())
    return {
        "parameters": sum(weight.numel() for weight in weights),
        "trained_parameters": sum(weight.numel() for weight in weights if weight.requires_grad),
        "test_seconds": seconds,
        "test_speech_seconds": speech_seconds,
        "device": pl_module.device.type,
        "devices": trainer.world_size,
    }


def conditions_of(pl_module: Any, data: Any, utterances: Sequence[Utterance]) -> NDArray[np.str_]:
    """The condition (utterances,) of each utterance's speaker."""
    audio, labelled = pl_module.personalized.speaker_audio, set(data.train_speaker_ids)
    return np.array([condition(each, labelled, audio.speaker_ids, audio.splits) for each in utterances])


def by_condition(test: PredictedSet, conditions: NDArray[np.str_]) -> dict[str, PredictedSet]:
    """Condition -> its utterances, where there are several: speakers known in training are another task."""
    names = sorted(set(conditions.tolist()))
    return {name: test.part(conditions == name) for name in names} if len(names) > 1 else {}


class PLDCCallback(Collecting):
    """Personalised label distribution calibration of a test run (paper, section 2.3).

    By default the deviation alone is scaled, which the paper found best: every variant lowers O-CCC, and only those
    that scale the deviation raise A-CCC. `shift_mean` and `scale_std` together are the paper's full equation. Every
    variant is scored in each test; the switches choose the one that predictions.csv holds.

    Writes predictions.csv, metrics.json, speaker_moments.csv (for `ser compare`), cost.json, speakers.json and
    speakers.safetensors (who calibrated whom) to the run's folder, and the speaker bank next to the checkpoint.

    Args:
        k: training speakers, the nearest by cosine, whose label statistics are taken (the authors' late script: 15).
        shift_mean: move each speaker's mean prediction to the neighbours' label mean.
        scale_std: scale each speaker's deviation to the neighbours' label deviation.
        statistics: average the neighbours' statistics (the paper), or pool their labels (the authors' late script).
        center: subtract the bank's mean vector before taking cosines (ours).
        clip: keep predictions within the corpus's label scale (ours).
        draws: of the control with random speakers.
        seed: of these draws.
    """

    def __init__(
        self,
        k: PositiveInt = 15,
        *,
        shift_mean: bool = False,
        scale_std: bool = True,
        statistics: Statistics = "average",
        center: bool = False,
        clip: bool = False,
        draws: PositiveInt = 20,
        seed: Seed = 0,
    ) -> None:
        super().__init__()
        self.settings = PLDCSettings(k, shift_mean, scale_std, statistics, center, clip)
        self.draws = draws
        self.seed = seed
        self.bank: SpeakerBank | None = None
        self.validation: PredictedSet | None = None
        self._started = 0.0

    on_test_batch_end = Collecting.keep

    @override
    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.bank = checkpoint_bank(trainer, pl_module, _attributes(pl_module))
        self.validation = None
        if trainer.datamodule.corpus.splits.validation:  # type: ignore[attr-defined]
            for batch in predict_split(trainer, pl_module, "validation"):
                self.collector.add(batch)
            validation = self.collected(trainer)
            self.validation = None if validation is None else validation.predicted
        self.collector = Collector()
        self._started = perf_counter()

    @override
    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        seconds = perf_counter() - self._started
        data, model, collected = trainer.datamodule, cast("Any", pl_module), self.collected(trainer)  # type: ignore[attr-defined]
        folder = run_folder(trainer)
        if collected is None or self.bank is None:
            return
        pldc = PLDC(self.bank, _attributes(pl_module), self.settings)
        tested = [data.utterances[index] for index in collected.indices]
        split_of = np.array([utterance.split for utterance in tested])
        calibrated = np.empty_like(collected.predicted.predictions)
        splits, speakers, moments = {}, {}, []
        vectors = {TRAINING: SpeakerVectors(self.bank.speaker_ids, self.bank.vectors)}
        vectors |= learnt_embeddings(model.personalized)
        # each set by itself: a speaker may stand in several
        for split in sorted(set(split_of.tolist())):
            rows = split_of == split
            test, utterances = collected.predicted.part(rows), [tested[row] for row in np.flatnonzero(rows)]
            calibration = pldc.calibration(test.predictions, test.speaker_ids, test.pooled)
            calibrated[rows] = calibration.predictions
            shifts = speaker_shifts(test.speaker_ids, test.pooled, test.labels, self.bank, pldc.attributes)
            speakers[split] = describe_speakers(utterances, calibration, shifts)
            vectors[split] = SpeakerVectors.of_utterances(test.speaker_ids, test.pooled)
            conditions = conditions_of(model, data, utterances)
            table, splits[split] = self._score(split, test, conditions, pldc, model.test_metric.min_utterances)
            splits[split] |= {
                "speakers": count_conditions(utterances, conditions),
                "shift": describe_correlations(shifts, table[0].scores),
            }
            moments.append(speaker_moments(split, table, test.labels, test.speaker_ids))
        write_csv(folder / PREDICTIONS, predictions_frame(collected, calibrated, pldc.attributes, data.utterances))
        write_json(
            folder / METRICS,
            {
                "checkpoint": str(trainer.ckpt_path) if trainer.ckpt_path else None,
                "model": self.bank.fingerprint,
                "attributes": list(pldc.attributes),
                "pldc": asdict(self.settings),
                "scale": list(data.scale),
                "min_utterances": model.test_metric.min_utterances,
                "splits": splits,
            },
        )
        write_moments(folder, moments)
        training = describe_training([data.utterances[index] for index in data.train_indices])
        record = {"fusion": str(model.personalized.fusion_name), "splits": speakers, "training": training}
        write_speakers(folder, record, vectors)
        speech_seconds = float(np.nansum([utterance.seconds for utterance in tested]))
        write_json(folder / COST, cost(trainer, pl_module, seconds, speech_seconds))
        rank_zero_info(f"written: {folder / PREDICTIONS} and {folder / METRICS}")

    def _score(
        self,
        split: str,
        test: PredictedSet,
        conditions: NDArray[np.str_],
        pldc: PLDC,
        min_utterances: int,
    ) -> tuple[list[CalibrationRow], dict[str, Any]]:
        """Score and print a test set, and each condition in it; -> the set's table, and its part of metrics.json."""
        calibrators = standard_calibrators(pldc, self.validation, draws=self.draws, seed=self.seed)

        def scored(name: str, part: PredictedSet) -> list[CalibrationRow]:
            rows = calibration_table(part, pldc, calibrators, min_utterances=min_utterances)
            print_scores(f"{name}: {len(part.predictions)} utterances", rows, LEGEND)
            return rows

        def calibrated(part: PredictedSet) -> PredictedSet:
            return replace(part, predictions=pldc(part.predictions, part.speaker_ids, part.pooled))

        table = scored(split, test)
        record: dict[str, Any] = {
            "utterances": len(test.predictions),
            "rows": rows_as_json(table),
            "conditions": {
                name: {
                    "utterances": len(part.predictions),
                    "rows": rows_as_json(scored(f"{split}, {name} speakers", part)),
                }
                for name, part in by_condition(test, conditions).items()
            },
        }
        if self.validation is not None:
            record["intervals"] = intervals_as_json(
                calibrated(self.validation), calibrated(test), pldc.attributes, pldc.bank.scale
            )
        return table, record


def _attributes(pl_module: LightningModule) -> tuple[str, ...]:
    attributes: Any = getattr(pl_module, "attributes", None)
    if attributes is None:
        raise UserError(
            f"{type(pl_module).__name__} predicts no emotion attributes",
            where="PLDCCallback",
            remedy="Leave it out, or test a model of them: --config configs/finetune.yaml --config configs/pldc.yaml",
        )
    return tuple(attributes)


class PredictionWriter(Collecting):
    """Writes predictions.csv to the run's folder: each utterance once, with its label, if any."""

    on_predict_batch_end = Collecting.keep

    @override
    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        collected, path = self.collected(trainer), run_folder(trainer) / PREDICTIONS
        if collected is not None:
            write_csv(path, self.frame(collected, pl_module, trainer.datamodule.utterances))  # type: ignore[attr-defined]
            rank_zero_info(f"written: {path}")

    def frame(self, collected: CollectedSet, pl_module: Any, utterances: Sequence[Utterance]) -> pd.DataFrame:
        """Make the table of what a model of emotion attributes predicts."""
        return predictions_frame(collected, None, pl_module.attributes, utterances)


class EmotionPredictionWriter(PredictionWriter):
    """Writes the probability of each emotion instead."""

    @override
    def frame(self, collected: CollectedSet, pl_module: Any, utterances: Sequence[Utterance]) -> pd.DataFrame:
        return emotion_frame(collected, pl_module.emotions, utterances)


class EmotionTestWriter(Collecting):
    """Scores a test of categorical emotion and writes what it found, each utterance once, to the run's folder."""

    on_test_batch_end = Collecting.keep

    @override
    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        data, model, collected = trainer.datamodule, cast("Any", pl_module), self.collected(trainer)  # type: ignore[attr-defined]
        folder, splits = run_folder(trainer), {}
        if collected is None:
            return
        tested = [data.utterances[index] for index in collected.indices]
        split_of = np.array([utterance.split for utterance in tested])
        for split in sorted(set(split_of.tolist())):
            rows = split_of == split
            test, utterances = collected.predicted.part(rows), [tested[row] for row in np.flatnonzero(rows)]
            conditions = conditions_of(model, data, utterances)
            splits[split] = {
                **_emotion_scores(test),
                "speakers": count_conditions(utterances, conditions),
                "conditions": {name: _emotion_scores(part) for name, part in by_condition(test, conditions).items()},
            }
        write_csv(folder / PREDICTIONS, emotion_frame(collected, model.emotions, data.utterances))
        checkpoint = str(trainer.ckpt_path) if trainer.ckpt_path else None
        write_json(folder / METRICS, {"checkpoint": checkpoint, "emotions": list(model.emotions), "splits": splits})
        rank_zero_info(f"written: {folder / PREDICTIONS} and {folder / METRICS}")


def _emotion_scores(test: PredictedSet) -> dict[str, Any]:
    labelled = emotions_of(test.labels)
    scores = classification_scores(test.predictions.argmax(1), labelled)
    return {
        "utterances": len(labelled),
        "labelled": int((labelled != NO_EMOTION).sum()),
        "scores": {name: None if isnan(score) else score for name, score in scores.items()},
    }
