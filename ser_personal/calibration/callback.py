"""PLDC in `ser test`: builds the speaker bank, calibrates the test sets, prints and writes what came of it."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, replace
from math import isnan
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jsonargparse.typing import NonNegativeInt, PositiveInt
from lightning.pytorch import Callback
from lightning.pytorch.utilities import rank_zero_info

from ser_personal.calibration.collect import CollectedSet, Collector, checkpoint_bank, predict_split
from ser_personal.calibration.conformal import intervals_as_json
from ser_personal.calibration.pldc import PLDC, PLDCSettings, Statistics
from ser_personal.calibration.run_files import (
    EMBEDDINGS,
    LEGEND,
    TRAINING,
    SpeakerVectors,
    condition,
    count_conditions,
    describe_calibration,
    describe_correlations,
    describe_shifts,
    describe_speakers,
    emotion_frame,
    predictions_frame,
    rows_as_json,
    show,
    speaker_moments,
    write_json,
    write_moments,
    write_speakers,
)
from ser_personal.calibration.shift import ShiftTable, SpeakerShift, speaker_shifts
from ser_personal.calibration.table import PredictedSet, calibration_table, standard_calibrators
from ser_personal.errors import UserError
from ser_personal.finetune.metrics import NO_EMOTION, classification_scores, emotions_of
from ser_personal.speakers.embedding import SpeakerEmbedding
from ser_personal.speakers.representation import SpeakerQuery

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from lightning.pytorch import LightningModule, Trainer

    from ser_personal.calibration.table import PredictedSet
    from ser_personal.speakers.bank import SpeakerBank
    from ser_personal.types import Utterance


def fusion_name(pl_module: LightningModule) -> str:
    """Name where e_s enters."""
    personalized: Any = pl_module.personalized
    return str(personalized.fusion_name)


def learnt_embeddings(pl_module: LightningModule) -> dict[str, SpeakerVectors]:
    """The learnt e_s of the speakers in the table, under `embeddings`; nothing where there is no table."""
    personalized: Any = pl_module.personalized
    speakers = personalized.speakers
    if not speakers.ids or not isinstance(speakers, SpeakerEmbedding):
        return {}
    with torch.inference_mode():
        learnt = speakers(SpeakerQuery(speakers.ids)).float().cpu().numpy()
    return {EMBEDDINGS: SpeakerVectors(tuple(speakers.ids), learnt)}


def cost(trainer: Trainer, pl_module: LightningModule, seconds: float, speech_seconds: float) -> dict[str, Any]:
    """Parameters of the model, those that its training changed, and how long the test took.

    Args:
        trainer: of the test.
        pl_module: the tested model.
        seconds: that the test took, without calibration.
        speech_seconds: of the tested utterances.
    """
    weights = list(pl_module.parameters())
    return {
        "parameters": sum(weight.numel() for weight in weights),
        "trained_parameters": sum(weight.numel() for weight in weights if weight.requires_grad),
        "test_seconds": seconds,
        "test_speech_seconds": speech_seconds,
        "device": pl_module.device.type,
        "devices": trainer.world_size,
    }


class PLDCCallback(Callback):
    """Personalised label distribution calibration of a test run (paper, section 2.3).

    By default the deviation alone is scaled, which the paper found best: every variant lowers O-CCC, and only those
    that scale the deviation raise A-CCC. `shift_mean` and `scale_std` together are the paper's full equation. Every
    variant is scored in each test; the switches choose the one that predictions.csv holds.

    Writes predictions.csv, metrics.json, speaker_moments.csv (for `ser compare`), cost.json, speakers.json and
    speakers.safetensors (who calibrated whom) to the run's folder, and the speaker bank beside the checkpoint.

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
        seed: NonNegativeInt = 0,
    ) -> None:
        super().__init__()
        self.settings = PLDCSettings(k, shift_mean, scale_std, statistics, center, clip)
        self.draws = draws
        self.seed = seed
        self.bank: SpeakerBank | None = None
        self.validation: PredictedSet | None = None
        self.test = Collector()
        self._moments: list[pd.DataFrame] = []
        self._started = 0.0

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Load the bank that matches the checkpoint, or build it over the training split; predict validation."""
        self.bank = checkpoint_bank(trainer, pl_module, _attributes(pl_module))
        self.validation = None
        if trainer.datamodule.corpus.splits.validation:  # type: ignore[attr-defined]
            validation = self._predict(trainer, pl_module, "validation")
            self.validation = None if validation is None else validation.predicted
        self.test = Collector()
        self._moments = []
        self._started = perf_counter()

    def _predict(self, trainer: Trainer, pl_module: LightningModule, split: str) -> CollectedSet | None:
        collector = Collector()
        for batch in predict_split(trainer, pl_module, split):
            collector.add(batch)
        return collector.join(trainer, trainer.datamodule.utterances)  # type: ignore[attr-defined]

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep a batch's predictions."""
        self.test.add(outputs)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Calibrate each test set, print its table, and write the files."""
        seconds = perf_counter() - self._started
        data = trainer.datamodule  # type: ignore[attr-defined]
        folder = Path(trainer.log_dir or trainer.default_root_dir)
        collected = self.test.join(trainer, data.utterances)
        if collected is None or self.bank is None:
            return
        folder.mkdir(parents=True, exist_ok=True)
        pldc = PLDC(self.bank, _attributes(pl_module), self.settings)
        split_of = np.array([data.utterances[index].split for index in collected.indices])
        calibrated = np.empty_like(collected.predicted.predictions)
        splits, speakers = {}, {}
        vectors = {TRAINING: SpeakerVectors(self.bank.speaker_ids, self.bank.vectors)} | learnt_embeddings(pl_module)
        # Each set by itself: a speaker may stand in several.
        for split in sorted(set(split_of.tolist())):
            rows = split_of == split
            test = collected.predicted.part(rows)
            calibration = pldc.calibration(test.predictions, test.speaker_ids, test.pooled)
            calibrated[rows] = calibration.predictions
            utterances = [data.utterances[index] for index in collected.indices[rows]]
            shifts = speaker_shifts(test.speaker_ids, test.pooled, test.labels, self.bank, pldc.attributes)
            described, how = describe_speakers(utterances), describe_calibration(calibration)
            how_far = describe_shifts(shifts)
            speakers[split] = {each: described[each] | how[each] | how_far[each] for each in described}
            vectors[split] = SpeakerVectors.of_utterances(test.speaker_ids, test.pooled)
            splits[split] = self._score_split(split, test, utterances, shifts, pldc, pl_module, data)
        frame = predictions_frame(collected, calibrated, pldc.attributes, data.utterances)
        frame.to_csv(folder / "predictions.csv", index=False)
        write_json(
            folder / "metrics.json",
            {
                "checkpoint": str(trainer.ckpt_path) if trainer.ckpt_path else None,
                "model": self.bank.fingerprint,
                "attributes": list(pldc.attributes),
                "pldc": asdict(self.settings),
                "scale": list(data.scale),
                "min_utterances": pl_module.test_metric.min_utterances,  # type: ignore[union-attr]
                "splits": splits,
            },
        )
        write_moments(folder, self._moments)
        training = [data.utterances[index] for index in data.train_indices]
        record = {"fusion": fusion_name(pl_module), "splits": speakers, "training": describe_speakers(training)}
        write_speakers(folder, record, vectors)
        tested = [data.utterances[index].seconds for index in collected.indices]
        write_json(folder / "cost.json", cost(trainer, pl_module, seconds, float(np.nansum(tested))))
        rank_zero_info(f"written: {folder / 'predictions.csv'} and {folder / 'metrics.json'}")

    def _score_split(
        self,
        split: str,
        test: PredictedSet,
        utterances: list[Utterance],
        shifts: dict[str, SpeakerShift],
        pldc: PLDC,
        pl_module: LightningModule,
        data: Any,
    ) -> dict[str, Any]:
        calibrators = standard_calibrators(pldc, self.validation, draws=self.draws, seed=self.seed)
        rows = calibration_table(test, pldc, calibrators, min_utterances=pl_module.test_metric.min_utterances)  # type: ignore[union-attr,arg-type]
        title = f"{split}: {len(test.predictions)} utterances"
        show(title, rows, LEGEND)
        self._moments.append(speaker_moments(split, rows, test.labels, test.speaker_ids))
        audio: Any = pl_module.personalized.speaker_audio  # type: ignore[union-attr]
        labelled = set(data.train_speaker_ids)
        of_utterance = [condition(each, labelled, audio.speaker_ids, audio.splits) for each in utterances]
        conditions = count_conditions(utterances, of_utterance)
        raw = rows[0].scores
        record = {
            "utterances": len(test.predictions),
            "speakers": conditions,
            "rows": rows_as_json(rows),
        }
        if self.validation is not None:
            record["intervals"] = intervals_as_json(
                _calibrated(self.validation, pldc), _calibrated(test, pldc), pldc.attributes, data.scale
            )
        # a speaker that training knew and one that it didn't are different tasks
        apart = {}
        for name in conditions if len(conditions) > 1 else ():
            part = test.part(np.array([its == name for its in of_utterance]))
            rows = calibration_table(part, pldc, calibrators, min_utterances=pl_module.test_metric.min_utterances)  # type: ignore[union-attr,arg-type]
            show(f"{split}, {name} speakers: {len(part.predictions)} utterances", rows, LEGEND)
            apart[name] = {"utterances": len(part.predictions), "rows": rows_as_json(rows)}
        correlated = {
            attribute: describe_correlations(ShiftTable.join(shifts, of_row.per_speaker, attribute))
            for attribute, of_row in raw.items()
        }
        return {**record, "conditions": apart, "shift": correlated}


def _calibrated(predicted: PredictedSet, pldc: PLDC) -> PredictedSet:
    return replace(predicted, predictions=pldc(predicted.predictions, predicted.speaker_ids, predicted.pooled))


def _attributes(pl_module: LightningModule) -> tuple[str, ...]:
    attributes: Any = getattr(pl_module, "attributes", None)
    if attributes is None:
        raise UserError(
            f"{type(pl_module).__name__} predicts no emotion attributes",
            where="PLDCCallback",
            remedy="Leave it out, or test a model of them: --config configs/finetune.yaml --config configs/pldc.yaml",
        )
    return tuple(attributes)


class PredictionWriter(Callback):
    """Writes predictions.csv to the run's folder: each utterance once, its label, if any, beside its prediction."""

    def __init__(self) -> None:
        super().__init__()
        self._predicted = Collector()

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep a batch's predictions."""
        self._predicted.add(outputs)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write those of all devices."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        folder = Path(trainer.log_dir or trainer.default_root_dir)
        collected = self._predicted.join(trainer, data.utterances)
        if collected is None:
            return
        folder.mkdir(parents=True, exist_ok=True)
        self.frame(collected, pl_module, data.utterances).to_csv(folder / "predictions.csv", index=False)
        rank_zero_info(f"written: {folder / 'predictions.csv'}")

    def frame(
        self, collected: CollectedSet, pl_module: LightningModule, utterances: Sequence[Utterance]
    ) -> pd.DataFrame:
        """Make the table of what a model of emotion attributes predicts."""
        attributes: Any = pl_module.attributes
        return predictions_frame(collected, None, attributes, utterances)


class EmotionPredictionWriter(PredictionWriter):
    """Writes the probability of each emotion instead."""

    def frame(
        self, collected: CollectedSet, pl_module: LightningModule, utterances: Sequence[Utterance]
    ) -> pd.DataFrame:
        """Make the table of what a model of categorical emotion predicts."""
        emotions: Any = pl_module.emotions
        return emotion_frame(collected, emotions, utterances)


class EmotionTestWriter(Callback):
    """Writes what a test of categorical emotion found, each utterance once, to the run's folder."""

    def __init__(self) -> None:
        super().__init__()
        self._test = Collector()

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep a batch's predictions."""
        self._test.add(outputs)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Score each test set, and apart in it the speakers of each condition."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        folder = Path(trainer.log_dir or trainer.default_root_dir)
        collected = self._test.join(trainer, data.utterances)
        if collected is None:
            return
        emotions: Any = pl_module.emotions
        audio: Any = pl_module.personalized.speaker_audio  # type: ignore[union-attr]
        labelled = set(data.train_speaker_ids)
        utterances = [data.utterances[index] for index in collected.indices]
        split_of = np.array([utterance.split for utterance in utterances])
        condition_of = [condition(each, labelled, audio.speaker_ids, audio.splits) for each in utterances]
        splits = {}
        for split in sorted(set(split_of.tolist())):
            rows = np.flatnonzero(split_of == split)
            splits[split] = _score_split(
                collected.predicted.part(split_of == split),
                [utterances[row] for row in rows],
                [condition_of[row] for row in rows],
            )
        folder.mkdir(parents=True, exist_ok=True)
        emotion_frame(collected, emotions, data.utterances).to_csv(folder / "predictions.csv", index=False)
        checkpoint = str(trainer.ckpt_path) if trainer.ckpt_path else None
        write_json(folder / "metrics.json", {"checkpoint": checkpoint, "emotions": list(emotions), "splits": splits})
        rank_zero_info(f"written: {folder / 'predictions.csv'} and {folder / 'metrics.json'}")


def _score_split(test: PredictedSet, utterances: Sequence[Utterance], condition_of: Sequence[Any]) -> dict[str, Any]:
    speakers = count_conditions(utterances, condition_of)
    record: dict[str, Any] = {**_scores(test), "speakers": speakers, "conditions": {}}
    # a speaker that training knew and one that it didn't are different tasks
    for name in sorted(Counter(condition_of)) if len(speakers) > 1 else ():
        record["conditions"][name] = _scores(test.part(np.array([its == name for its in condition_of])))
    return record


def _scores(test: PredictedSet) -> dict[str, Any]:
    labelled = emotions_of(test.labels)
    scores = classification_scores(test.predictions.argmax(1), labelled)
    return {
        "utterances": len(labelled),
        "labelled": int((labelled != NO_EMOTION).sum()),
        "scores": {name: None if isnan(score) else score for name, score in scores.items()},
    }
