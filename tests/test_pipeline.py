from __future__ import annotations

import json

import pytest
from tiny_models import emotion_data, finetuning, fit, papt, pretrain_data, trainer

from ser_personal.evaluation.pldc_callback import PLDCCallback
from ser_personal.finetune.interpreters import MLPInterpreter
from ser_personal.pretrain.kmeans import PseudoLabelData, kmeans


def pipeline(corpus, folder):
    """k-means, PAPT, fine-tuning and test with PLDC; -> the rows of the test set."""
    labels, pretrained, finetuned = folder / "pseudo_labels", folder / "papt.ckpt", folder / "finetune.ckpt"
    kmeans(PseudoLabelData(str(corpus)), out=str(labels), num_clusters=12, iterations=10)
    fit(papt(), pretrain_data(corpus, labels), folder, max_epochs=1).save_checkpoint(pretrained)

    # Few steps, a low rate and no dropout: what processors round differently stays in the third digit.
    model = {"learning_rate": 2e-3, "interpreter": MLPInterpreter(dropout=0.0)}
    data = emotion_data(corpus)
    fit(finetuning(papt_checkpoint=str(pretrained), **model), data, folder, max_epochs=2).save_checkpoint(finetuned)

    testing = trainer(folder, callbacks=[PLDCCallback(k=3)])
    testing.test(finetuning(**model), datamodule=data, ckpt_path=finetuned, verbose=False)
    return json.loads(next(folder.rglob("metrics.json")).read_text())["splits"]["test1"]["rows"]


def test_the_whole_method_reaches_its_number(synthetic_corpus, tmp_path):
    rows = pipeline(synthetic_corpus, tmp_path)
    assert rows["sigma"]["attributes"]["arousal"]["overall_ccc"] == pytest.approx(0.425, abs=0.02)
