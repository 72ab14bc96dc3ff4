import math

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score, recall_score

from ser_personal.finetune.metrics import ClassificationMetric, ConcordanceMetric
from ser_personal.finetune.module import EmotionFineTuning
from ser_personal.scores import score

ATTRIBUTES = ("arousal", "valence")
EMOTIONS = 4


class Concordance:
    """Attributes' predictions and labels, some missing, of four speakers, one unknown."""

    def __init__(self):
        rng = np.random.default_rng(5)
        self.labels = rng.uniform(1, 7, (60, 2)).astype(np.float32)
        self.labels[::9, 0] = np.nan
        self.speaker_ids = [None if s == 3 else f"speaker {s}" for s in rng.integers(0, 4, 60)]
        self.predictions = rng.normal(4, 1, (60, 2)).astype(np.float32)
        self.metric = ConcordanceMetric(ATTRIBUTES, min_utterances=5)

    def batch(self, indices):
        predictions, labels = (torch.from_numpy(array[indices]) for array in (self.predictions, self.labels))
        said_by = {"indices": torch.tensor(indices).long(), "speaker_ids": [self.speaker_ids[i] for i in indices]}
        return said_by | {"predictions": predictions, "labels": labels}

    def expected(self):
        found = score(self.predictions, self.labels, self.speaker_ids, ATTRIBUTES, min_utterances=5)
        names = ("overall_ccc", "average_ccc", "average_ccc_std", "speakers", "utterances")
        return {f"{attribute}_{name}": getattr(of, name) for attribute, of in found.items() for name in names}


def sklearns_scores(emotions, predicted):
    of = {"labels": np.unique(emotions), "zero_division": 0}
    f1 = {f"{average}_f1": f1_score(emotions, predicted, average=average, **of) for average in ("macro", "weighted")}
    return f1 | {"uar": recall_score(emotions, predicted, average="macro", **of), "utterances": len(emotions)}


class Classification:
    """Probabilities, and labels without emotion 3, some missing."""

    def __init__(self):
        rng = np.random.default_rng(5)
        self.emotions = rng.integers(0, 3, 60)
        self.emotions[::9] = -1
        self.probabilities = rng.dirichlet(np.ones(EMOTIONS), 60).astype(np.float32)
        self.probabilities[np.arange(60), self.emotions.clip(0)] += 0.3
        self.metric = ClassificationMetric()

    def batch(self, indices):
        labels = torch.eye(EMOTIONS)[self.emotions[indices]]
        labels[torch.from_numpy(self.emotions[indices] == -1)] = torch.nan
        predictions = torch.from_numpy(self.probabilities[indices])
        return {"indices": torch.tensor(indices, dtype=torch.int64), "predictions": predictions, "labels": labels}

    def expected(self):
        labelled = self.emotions >= 0
        return sklearns_scores(self.emotions[labelled], self.probabilities.argmax(1)[labelled])


# torchmetrics computes F1 and recall in float32
TOLERANCE = {Concordance: 1e-12, Classification: 1e-6}


@pytest.mark.parametrize("kind", TOLERANCE)
def test_batches_and_repeats_score_as_the_whole_set_once(kind):
    rows = kind()
    for indices in (list(range(40)), list(range(30, 60)), [0, 0, 0, 59]):
        rows.metric.update(rows.batch(indices))
    assert rows.metric.compute() == pytest.approx(rows.expected(), abs=TOLERANCE[kind])


def test_no_labels_and_labels_that_are_all_alike_choose_no_model():
    rows = Classification()
    rows.emotions[:] = -1
    rows.metric.update(rows.batch([0, 1]))
    scores = rows.metric.compute()
    assert math.isnan(scores["uar"])
    assert scores["utterances"] == 0
    rows = Concordance()
    rows.labels[3:, 1], rows.labels[:3, 1] = 4, np.nan
    rows.metric.update(rows.batch(list(range(60))))
    scores = rows.metric.compute()
    assert math.isnan(scores["valence_overall_ccc"])
    assert not math.isnan(scores["arousal_overall_ccc"])


@pytest.mark.parametrize(("scores", "mean"), [((0.2, 0.6), 0.4), ((0.2, math.nan), 0.2), ((math.nan,) * 2, math.nan)])
def test_the_mean_of_the_defined_ccc_chooses_the_model(scores, mean):
    logged = {}
    module = EmotionFineTuning(ATTRIBUTES)
    module.log_dict = lambda values, **_: logged.update(values)
    module.log = lambda name, value, **_: logged.update({name: value})
    module.log_scores("val", {f"{name}_overall_ccc": value for name, value in zip(ATTRIBUTES, scores, strict=True)})
    assert logged["val_ccc"] == pytest.approx(mean, nan_ok=True)
