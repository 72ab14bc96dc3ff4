"""The callbacks that collect what `ser test` and `ser predict` found, from all devices, score it and write it."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from itertools import chain, compress, count
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from safetensors.numpy import load_file, save_file
from typing_extensions import override

from ser_personal.calibration.table import PredictedSet, print_scores, score_row, speaker_moments
from ser_personal.errors import UserError
from ser_personal.evaluation import run_files
from ser_personal.files import gather_files, write_json
from ser_personal.finetune.metrics import NO_EMOTION, classification_scores, emotions_of
from ser_personal.types import Utterance, utterance_hash

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

    import pandas as pd
    from numpy.typing import NDArray
    from torch import Tensor

    from ser_personal.calibration.table import CalibrationRow

    Arrays = dict[str, NDArray[Any]]
    # a test set's part of metrics.json, and its speakers' moments, none for categorical emotion
    Scored = tuple[dict[str, Any], pd.DataFrame]


class CollectedSet(NamedTuple):
    """Utterances in the order of the datamodule's, and what was predicted of them."""

    utterances: tuple[Utterance, ...]
    predicted: PredictedSet

    def by_split(self) -> dict[str, tuple[NDArray[np.bool_], CollectedSet]]:
        """Split -> its rows, a mask (utterances,), and the set of these rows."""
        split_of = np.array([utterance.split for utterance in self.utterances])
        rows_of = {split: split_of == split for split in np.unique(split_of).tolist()}
        return {
            split: (rows, CollectedSet(tuple(compress(self.utterances, rows)), self.predicted.part(rows)))
            for split, rows in rows_of.items()
        }


_FOLDERS: WeakKeyDictionary[Trainer, Path] = WeakKeyDictionary()
_WRITTEN = ("config.yaml", run_files.PREDICTIONS, run_files.METRICS, run_files.BASELINE)


def run_folder(trainer: Trainer) -> Path:
    """The folder of the run's files, a new one for each run; all devices have to ask, and the first tells the others.

    It lies in `lightning_logs` of `--trainer.default_root_dir`, wherever the logger saves its own files, and is called
    by the logger's version or id where no other run has that, else version_N.
    """
    if trainer not in _FOLDERS:
        new = str(_new_folder(trainer)) if trainer.is_global_zero else ""
        _FOLDERS[trainer] = Path(trainer.strategy.broadcast(new))
    return _FOLDERS[trainer]


def _new_folder(trainer: Trainer) -> Path:
    root = Path(trainer.default_root_dir) / "lightning_logs"
    logger = next(iter(trainer.loggers), None)
    version = None if logger is None else logger.version
    names: Iterator[str] = (f"version_{number}" for number in count(len(list(root.glob("version_*")))))
    if version not in (None, ""):
        names = chain([f"version_{version}" if isinstance(version, int) else Path(str(version)).name], names)
    # a TensorBoard or CSV logger may have made it; the trainer's own log_dir would wait for the other devices
    of_logger = Path(getattr(logger, "log_dir", None) or "").absolute()
    for folder in (root / name for name in names):
        with suppress(FileExistsError):
            folder.mkdir(parents=True, exist_ok=folder.absolute() == of_logger)
            if not any((folder / name).exists() for name in _WRITTEN):
                break
    return folder


class RunWriter(Callback):
    """Base of the callbacks that write to the run's folder: makes it before anything is computed for it."""

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage not in {"test", "predict"}:
            return
        datamodule = getattr(trainer, "datamodule", None)
        source = (trainer.test_loop if stage == "test" else trainer.predict_loop)._data_source.instance  # noqa: SLF001
        # an earlier call's datamodule, which is still there, knows nothing of loaders that are passed
        if not hasattr(datamodule, "utterances") or (source is not None and source is not datamodule):
            what = "needs the datamodule: dataloaders alone don't name utterances and speakers"
            remedy = "Pass the trainer datamodule=EmotionDataModule(...)"
            raise UserError(what, where=type(self).__name__, remedy=remedy)
        run_folder(trainer)

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        # a notebook's trainer may test again
        _FOLDERS.pop(trainer, None)


class PredictionCollector(RunWriter):
    """Keeps one device's predictions and, at the end, joins those of all; a subclass makes `keep` the hook of a stage.

    Gathering through files needs the memory of one device's share on each device but the first, and doesn't hang
    where devices have different numbers of batches.
    """

    def __init__(self) -> None:
        super().__init__()
        self._batches: list[dict[str, Tensor]] = []

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        # what an interrupted test kept may be another model's
        self._batches = []

    def keep(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *_: Any, **__: Any) -> None:
        """Keep a batch's predictions."""
        kept = {name: outputs[name].float().cpu() for name in ("pooled", "predictions", "labels")}
        self._batches.append({"indices": outputs["indices"].cpu(), **kept})

    def take_collected(self, trainer: Trainer) -> CollectedSet | None:
        """Join the predictions of all devices, on the first, and begin anew; None on the others."""
        utterances = trainer.datamodule.utterances  # type: ignore[attr-defined]
        if trainer.world_size == 1:
            return _in_order([self._take_all()], utterances)
        return gather_files(
            trainer,
            trainer.default_root_dir,
            lambda path: save_file(self._take_all(), path),
            lambda paths: _in_order([load_file(path) for path in paths], utterances),
        )

    def take_tested(self, trainer: Trainer) -> CollectedSet | None:
        """`take_collected` of what was tested or predicted; prints how much it is where limits left out some."""
        collected, data = self.take_collected(trainer), trainer.datamodule  # type: ignore[attr-defined]
        every, splits = len(data.indices_of(data.tested_splits)), ", ".join(data.tested_splits)
        if collected is not None and len(collected.utterances) < every:
            print(f"only {len(collected.utterances):,} of {every:,} utterances of {splits} were predicted")
        return collected

    def _take_all(self) -> Arrays:
        batches, self._batches = self._batches, []
        names = batches[0] if batches else ()
        return {name: torch.cat([batch[name] for batch in batches]).numpy() for name in names}


def _in_order(shards: Sequence[Arrays], utterances: Sequence[Utterance]) -> CollectedSet:
    # a device without a batch has no arrays
    held = [shard for shard in shards if shard]
    indices, first = np.unique(np.concatenate([shard["indices"] for shard in held]), return_index=True)
    kept = tuple(utterances[index] for index in indices)
    predictions, pooled, labels = (
        np.concatenate([shard[name] for shard in held])[first].astype(np.float64)
        for name in ("predictions", "pooled", "labels")
    )
    speaker_ids = tuple(utterance.speaker_id for utterance in kept)
    return CollectedSet(kept, PredictedSet(predictions, speaker_ids, pooled, labels))


def conditions_of(pl_module: Any, data: Any, utterances: Sequence[Utterance]) -> NDArray[np.str_]:
    """The condition (utterances,) of each utterance's speaker in a test set.

    The first that applies, by hashes of utterances: `transductive` where audio of the speaker in this set was
    pre-trained on, and none of their labels in it were trained on; `labelled` where any labels of theirs were, or are
    in the training split and so in the bank; `adaptation` where other audio of theirs was pre-trained on; `unseen`.
    """
    model, trained_on = pl_module.personalized, pl_module.trained_on

    def who(utterance: Utterance) -> object:
        return utterance.speaker_id or (utterance.utterance_id,)

    def speakers_in(hashes: Collection[str], among: Sequence[Utterance]) -> set[object]:
        return {who(each) for each in among if utterance_hash(each) in hashes}

    labels_here = speakers_in(trained_on, utterances)
    speakers_of = {
        "transductive": speakers_in(model.pretrained_on, utterances) - labels_here,
        "labelled": {*data.train_speaker_ids} | speakers_in(trained_on, data.utterances) | labels_here,
        # TAPT knows speakers whom no table has
        "adaptation": {*model.embedded_speakers} | speakers_in(model.pretrained_on, data.utterances),
        "unseen": {who(each) for each in utterances},
    }
    return np.array([next(name for name, of in speakers_of.items() if who(each) in of) for each in utterances])


def about_speakers(pl_module: Any, utterances: Sequence[Utterance], conditions: NDArray[np.str_]) -> dict[str, Any]:
    """Count a set's speakers by condition and, in a control that permutes them, those who have another one's e_s.

    Speakers outside the table get the same as without the control.
    """
    condition_of = {each.speaker_id: name for each, name in zip(utterances, conditions.tolist(), strict=True)}
    condition_of.pop(None, None)
    counted: dict[str, Any] = {"speakers": dict(Counter(condition_of.values()))}
    if getattr(pl_module.personalized.speakers, "permute", False):
        counted["permuted_speakers"] = len(condition_of.keys() & pl_module.personalized.embedded_speakers)
    return counted


def score_set(
    model: Any, data: Any, tested: CollectedSet, table_of: Callable[[PredictedSet], list[CalibrationRow]]
) -> Scored:
    """Score and print a test set and, where there are several, each condition in it, which is a task of its own."""
    utterances, test = tested
    split, conditions = utterances[0].split, conditions_of(model, data, utterances)

    def scored(name: str, part: PredictedSet) -> tuple[dict[str, Any], list[CalibrationRow]]:
        if model.emotions:
            labelled = emotions_of(torch.from_numpy(part.labels)).numpy()
            scores = classification_scores(part.predictions.argmax(1), labelled)
            found = int((labelled != NO_EMOTION).sum())
            return {"utterances": len(labelled), "labelled": found, "scores": scores}, []
        table = table_of(part)
        print_scores(f"{name}: {len(part.predictions)} utterances", table, model.metric.min_utterances)
        return {"utterances": len(part.predictions), "rows": run_files.rows_as_json(table)}, table

    record, table = scored(split, test)
    names = sorted(set(conditions.tolist()))
    parts = {name: test.part(conditions == name) for name in names if len(names) > 1}
    record |= about_speakers(model, utterances, conditions)
    record["conditions"] = {name: scored(f"{split}, {name} speakers", part)[0] for name, part in parts.items()}
    return record, speaker_moments(split, table, test.labels, test.speaker_ids)


def attributes_of(pl_module: LightningModule, callback: Callback) -> tuple[str, ...]:
    """The attributes that a model predicts, which a callback needs."""
    attributes: Any = getattr(pl_module, "attributes", ())
    if not attributes:
        what = f"{type(pl_module).__name__} predicts no emotion attributes"
        remedy = "Leave it out, or test a model of them: --config configs/finetune.yaml"
        raise UserError(what, where=type(callback).__name__, remedy=remedy)
    return tuple(attributes)


def write_test(
    trainer: Trainer,
    pl_module: Any,
    collected: CollectedSet,
    scored: Mapping[str, Scored],
    calibrated: NDArray[np.float64] | None = None,
    **more: Any,
) -> None:
    """Write predictions.csv, metrics.json and, of attributes, speaker_moments.csv; `scored` is by split."""
    folder, checkpoint = run_folder(trainer), trainer.ckpt_path
    metrics: dict[str, Any] = {"checkpoint": str(checkpoint) if checkpoint else None}
    if pl_module.emotions:
        metrics["emotions"] = list(pl_module.emotions)
    else:
        scale, least = trainer.datamodule.scale, pl_module.metric.min_utterances  # type: ignore[attr-defined]
        metrics |= {"attributes": list(pl_module.attributes), "scale": list(scale), "min_utterances": least}
        run_files.write_moments(folder, [moments for _, moments in scored.values()])
    metrics |= {"splits": {split: record for split, (record, _) in scored.items()}, **more}
    run_files.write_csv(folder / run_files.PREDICTIONS, run_files.predictions_table(collected, pl_module, calibrated))
    write_json(folder / run_files.METRICS, metrics)
    rank_zero_info(f"written: {folder / run_files.PREDICTIONS} and {folder / run_files.METRICS}")


class PredictionWriter(PredictionCollector):
    """Writes predictions.csv; a test is scored without calibrating, into metrics.json and speaker_moments.csv.

    PLDCCallback takes its place in a test with configs/pldc.yaml, and writes more.
    """

    on_predict_batch_end = on_test_batch_end = PredictionCollector.keep

    @override
    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        collected, path = self.take_tested(trainer), run_folder(trainer) / run_files.PREDICTIONS
        if collected is not None:
            run_files.write_csv(path, run_files.predictions_table(collected, pl_module))
            rank_zero_info(f"written: {path}")

    @override
    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        model: Any = pl_module
        collected = self.take_tested(trainer)
        if collected is None:
            return

        def table_of(part: PredictedSet) -> list[CalibrationRow]:
            return [score_row("raw", part, part.predictions, model.attributes, model.metric.min_utterances)]

        sets = collected.by_split().items()
        scored = {split: score_set(model, trainer.datamodule, tested, table_of) for split, (_, tested) in sets}  # type: ignore[attr-defined]
        write_test(trainer, model, collected, scored, model=model.fingerprint())
