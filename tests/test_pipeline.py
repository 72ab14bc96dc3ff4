"""The whole method on synthetic speech; ridge regression on recordings that the repository doesn't hold."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from tiny_models import emotion_data, finetuning, fit, papt, pretrain_data, trainer

from ser_personal.audio import decode
from ser_personal.corpus.csv_corpus import CSVCorpus
from ser_personal.encoder.raw import mfcc_functionals
from ser_personal.evaluation.pldc_callback import PLDCCallback
from ser_personal.finetune.interpreters import MLPInterpreter
from ser_personal.pretrain.kmeans import PseudoLabelData, kmeans
from ser_personal.report.baseline import ridge_baseline
from ser_personal.scores import score


def test_the_whole_method_reaches_its_number(synthetic_corpus, tmp_path):
    """k-means, PAPT, fine-tuning and test with PLDC."""
    labels, pretrained, finetuned = tmp_path / "pseudo_labels", tmp_path / "papt.ckpt", tmp_path / "finetune.ckpt"
    kmeans(PseudoLabelData(str(synthetic_corpus)), out=str(labels), num_clusters=12, iterations=10)
    fit(papt(), pretrain_data(synthetic_corpus, labels), tmp_path, max_epochs=1).save_checkpoint(pretrained)
    # Few steps, a low rate and no dropout: what processors round differently stays in the third digit.
    model = {"learning_rate": 2e-3, "interpreter": MLPInterpreter(dropout=0.0)}
    data = emotion_data(synthetic_corpus)
    fit(finetuning(papt_checkpoint=str(pretrained), **model), data, tmp_path, max_epochs=2).save_checkpoint(finetuned)
    testing = trainer(tmp_path, callbacks=[PLDCCallback(k=3)])
    testing.test(finetuning(**model), datamodule=data, ckpt_path=finetuned, verbose=False)
    rows = json.loads(next(tmp_path.rglob("metrics.json")).read_text())["splits"]["test1"]["rows"]
    assert rows["sigma"]["attributes"]["arousal"]["overall_ccc"] == pytest.approx(0.425, abs=0.02)


SPEECH = Path(os.environ.get("SER_TEST_SPEECH", "speech"))


@pytest.mark.skipif(not SPEECH.is_dir(), reason="no real speech here: SER_TEST_SPEECH names a folder with ravdess/")
def test_ridge_regression_hears_arousal_in_speakers_it_was_not_trained_on() -> None:
    splits = CSVCorpus(str(SPEECH / "ravdess" / "corpus.csv")).splits
    train, test = splits.train[::8], splits.test["test1"][::8]
    features = [np.stack([mfcc_functionals(decode(u.path)) for u in part]) for part in (train, test)]
    labels = [np.array([[u.labels["arousal"]] for u in part]) for part in (train, test)]
    predictions = ridge_baseline(features[0], labels[0], features[1])
    scores = score(predictions, labels[1], [u.speaker_id for u in test], ["arousal"])
    assert scores["arousal"].overall_ccc > 0.6
