import json

import numpy as np
import pandas as pd
import pytest
import torch
from command_line import configs, ser, trainer_flags
from garbage import refused
from test_metrics import sklearns_scores
from tiny_models import emotion_data, encoder
from torch.nn import functional

from ser_personal.finetune.classification import EmotionClassification, cross_entropy


def classification(**options):
    return EmotionClassification(**{"encoder": encoder(), "learning_rate": 1e-2} | options)


@pytest.fixture
def data(synthetic_corpus):
    return emotion_data(synthetic_corpus, target="emotion")


@pytest.fixture(scope="module")
def checkpoint(synthetic_corpus, tmp_path_factory):
    path = tmp_path_factory.mktemp("emotion") / "emotion.ckpt"
    assert ser("fit", *arguments(synthetic_corpus, path.parent)) == 0
    return path


def arguments(corpus, folder):
    return [*configs("emotion.yaml", "tiny/emotion.yaml"), "--data.corpus", corpus, *trainer_flags(folder)]


def test_cross_entropy_is_torchs_over_labelled_rows():
    logits = torch.randn(6, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    emotions, weights = torch.tensor([0, 3, -1, 1, 1, -1]), torch.tensor([1.0, 2.0, 9.0, 0.0, 0.5, 1.0])
    labels = torch.eye(4)[emotions].masked_fill((emotions < 0)[:, None], torch.nan)
    with torch.no_grad():
        logits[2] = torch.nan
    rows = emotions >= 0
    each = functional.cross_entropy(logits[rows], emotions[rows], reduction="none")
    torch.testing.assert_close(cross_entropy(logits, labels), each.mean())
    weighted = (each * weights[rows]).sum() / weights[rows].sum()
    torch.testing.assert_close(cross_entropy(logits, labels, weights), weighted)
    nothing = cross_entropy(logits, torch.full_like(labels, torch.nan))
    nothing.backward()
    assert nothing == 0
    assert not logits.grad.any()


def test_emotions_are_those_of_the_training_set_and_start_at_their_shares(relabelled):
    # those of no emotion are left out of training
    corpus = relabelled(lambda row: row.update({"EmoClass": "X"} if row["FileName"].endswith("1.wav") else {}))
    data = emotion_data(corpus, target="emotion")
    module = classification()
    module.build(data)
    found = [data.utterances[index].emotion for index in data.train_indices]
    assert module.emotions == sorted(set(found))
    shares = [found.count(emotion) / len(found) for emotion in module.emotions]
    assert module.interpreter.layers[-1].bias.softmax(0).tolist() == pytest.approx(shares)


def test_chosen_emotions_alone_are_labelled(data):
    first, second, third = list(data.train_emotions)[:3]
    module = classification(emotions=[second, first])
    labels = module.labels_of({"emotions": [first, None, third, second], "indices": torch.ones(4)})
    assert torch.equal(labels.nan_to_num(-1), torch.tensor([[0.0, 1], [-1, -1], [-1, -1], [1, 0]]))


def test_a_test_writes_the_scores_that_scikit_learn_finds_for_each_set_and_condition(relabelled, checkpoint, tmp_path):
    known = {"1", "2"}

    def move(row):
        # two speakers of the training set speak in the test set as well; one utterance is of no emotion told apart
        if row["SpkrID"] in known and row["FileName"].endswith(("5.wav", "6.wav")):
            row["Split_Set"] = "Test1"
        if row["Split_Set"] == "Test1" and row["FileName"].endswith("2.wav"):
            row["EmoClass"] = "X"

    corpus = relabelled(move)
    overlapping = ["--data.corpus", "MSPPodcast", "--data.corpus.root", corpus]
    overlapping += ["--data.corpus.allow_overlap", "[test1]"]
    assert ser("test", *arguments(corpus, tmp_path), "--ckpt_path", checkpoint, *overlapping) == 0
    (path,) = tmp_path.rglob("metrics.json")
    metrics = json.loads(path.read_text())
    table = pd.read_csv(path.with_name("predictions.csv"), dtype={"speaker": str})
    found, emotions = metrics["splits"]["test1"], metrics["emotions"]
    probabilities = table[[f"{emotion}_probability" for emotion in emotions]].to_numpy()
    assert np.allclose(probabilities.sum(1), 1)
    assert list(table["predicted"]) == [emotions[place] for place in probabilities.argmax(1)]
    assert (found["speakers"], found["utterances"]) == ({"labelled": 2, "unseen": 3}, len(table))
    seen = table["speaker"].isin(known)
    parts = {"labelled": table[seen], "unseen": table[~seen]}
    for record, part in [(found, table), *((found["conditions"][name], part) for name, part in parts.items())]:
        told_apart = part[part["emotion"].isin(emotions)]
        expected = sklearns_scores(told_apart["emotion"], told_apart["predicted"])
        assert record["scores"] | {"utterances": record["labelled"]} == pytest.approx(expected)
        assert (record["utterances"], record["labelled"]) == (len(part), len(told_apart))
    assert found["labelled"] < found["utterances"]


def test_other_emotions_than_those_that_were_learnt_are_refused(synthetic_corpus, checkpoint, tmp_path, mistake):
    test = ["test", *arguments(synthetic_corpus, tmp_path), "--ckpt_path", checkpoint]
    assert "was trained with emotions" in mistake(*test, "--model.emotions", "[joy,anger]")
    what = "the checkpoint: was trained for anger, .*, not joy, anger"
    refused(what, EmotionClassification.load_from_checkpoint, checkpoint, emotions=["joy", "anger"])


def test_emotions_that_can_not_be_told_apart(relabelled, data):
    refused("emotions: can't be envy, anger: the corpus has", classification(emotions=["envy", "anger"]).build, data)
    refused("emotions: can't be anger: the corpus has", classification(emotions=["anger"]).build, data)
    refused("emotions: is text", classification, emotions="anger")
    refused("anger, anger: one is named twice", classification, emotions=["anger", "anger"])
    nothing = emotion_data(relabelled(lambda row: row.update(EmoClass="X")))
    refused("emotions: can't be none: the corpus has none", classification().build, nothing)
