"""The baseline of every table: ridge regression on functionals of MFCC, fitted on the training split."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from numpy.typing import NDArray
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from typing_extensions import override

from ser_personal.calibration.table import PredictedSet, print_scores, score_row, speaker_moments
from ser_personal.corpus.base import Corpus  # jsonargparse resolves it at run time
from ser_personal.encoder.raw import mfcc_functionals
from ser_personal.errors import UserError
from ser_personal.evaluation.prediction_collector import RunWriter, attributes_of, run_folder
from ser_personal.evaluation.run_files import BASELINE, RIDGE, SPEAKER_MOMENTS, rows_as_json, write_moments
from ser_personal.files import refuse_existing, write_json
from ser_personal.scores import Values
from ser_personal.types import AtLeastTwo, Attribute

PENALTIES = np.logspace(-1, 5, 13)


def ridge_baseline(
    train_features: NDArray[np.float32], train_labels: Values, test_features: NDArray[np.float32]
) -> Values:
    """Predict each attribute by a ridge regression whose penalty is chosen by leave-one-out on the training set.

    Of features (utterances, features) and training labels (utterances, attributes), NaN where missing, it returns
    (test utterances, attributes), NaN for an attribute that no training utterance is labelled with.
    """
    predictions = np.full((len(test_features), train_labels.shape[1]), np.nan)
    for attribute, labels in enumerate(train_labels.T):
        labelled = ~np.isnan(labels)
        if labelled.any():
            model = make_pipeline(StandardScaler(), RidgeCV(PENALTIES))
            model.fit(train_features[labelled], labels[labelled])
            predictions[:, attribute] = model.predict(test_features)
    return predictions


def baseline(
    corpus: Corpus | str,
    out: str = "baseline",
    attributes: tuple[Attribute, ...] = ("arousal", "valence", "dominance"),
    test_splits: list[str] | None = None,
    min_utterances: AtLeastTwo = 10,
    *,
    replace: bool = False,
) -> None:
    """Fit a ridge regression on MFCC functionals of the training split, and score it on the test sets.

    Args:
        corpus: a folder in MSP-Podcast's layout, a corpus.csv, or a corpus.
        out: folder for baseline.json and speaker_moments.csv.
        attributes: what to predict; those without training labels are left out.
        test_splits: sets to test on; all but train, validation and what `cut_test` cut off for adaptation if None.
        min_utterances: labelled utterances a speaker must have to count in A-CCC.
        replace: replace files that exist already.
    """
    from ser_personal.data.emotion import EmotionDataModule

    refuse_existing(Path(out) / BASELINE, Path(out) / SPEAKER_MOMENTS, replace=replace)
    data = EmotionDataModule(corpus, test_splits=test_splits, num_workers=0)
    if not write_baseline(data, attributes, min_utterances, Path(out)):
        what = f"no training utterance has a label of {' or '.join(attributes)}"
        raise UserError(what, where="ser baseline", remedy="Give a corpus with labels, or other --attributes")


def write_baseline(data: Any, wanted: Sequence[str], min_utterances: int, folder: Path) -> bool:
    """Fit, print and write the baseline, of those of the attributes that have a training label; whether any has."""
    train = data.train_indices
    attributes = [name for name in wanted if name in data.train_label_mean]
    if not attributes:
        return False
    tests = {split: data.split_indices(split) for split in data.tested_splits}
    used = {index for indices in (train, *tests.values()) for index in indices}
    features = {index: mfcc_functionals(data.waveform_of(index)) for index in used}
    labels = np.array([[u.labels.get(attribute, np.nan) for attribute in attributes] for u in data.utterances])
    of_training = np.stack([features[index] for index in train])
    rows, moments = {}, []
    for split, indices in tests.items():
        pooled = np.stack([features[index] for index in indices])
        predictions = ridge_baseline(of_training, labels[train], pooled)
        speakers = tuple(data.utterances[index].speaker_id for index in indices)
        test = PredictedSet(predictions, speakers, pooled.astype(np.float64), labels[indices])
        row = score_row(RIDGE, test, predictions, attributes, min_utterances)
        print_scores(f"{split}: ridge regression on MFCC functionals, the baseline", [row], min_utterances)
        rows[split] = {"rows": rows_as_json([row])}
        moments.append(speaker_moments(split, [row], test.labels, speakers))
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / BASELINE, {"splits": rows})
    write_moments(folder, moments)
    return True


class RidgeBaselineCallback(RunWriter):
    """Prints what a ridge regression on MFCC functionals reaches on the same test sets, and adds it to the run's files.

    The first process fits it on the training split.
    """

    @override
    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        attributes_of(pl_module, self)
        if trainer.datamodule.frame_source is not None:  # type: ignore[attr-defined]
            what = "batches hold cached features, and MFCC are computed of audio"
            remedy = "Leave configs/ridge.yaml out, and run `ser baseline CORPUS`"
            raise UserError(what, where="RidgeBaselineCallback", remedy=remedy)

    @override
    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        folder = run_folder(trainer)
        if not trainer.is_global_zero:
            return
        metric: Any = pl_module.metric
        attributes, least = attributes_of(pl_module, self), metric.min_utterances
        if not write_baseline(trainer.datamodule, attributes, least, folder):  # type: ignore[attr-defined]
            rank_zero_info("no ridge baseline: no training utterance has a label that the model predicts")
