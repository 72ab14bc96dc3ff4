from __future__ import annotations

from inspect import signature
from math import inf, nan

import pytest
from jsonargparse import ArgumentParser

from ser_personal.cli import OneLineErrors
from ser_personal.corpus.csv_corpus import CSVCorpus
from ser_personal.data.emotion import EmotionDataModule
from ser_personal.data.pretrain import PretrainDataModule
from ser_personal.encoder.hubert import HubertEncoder, TinyEncoder
from ser_personal.errors import UserError
from ser_personal.evaluation.pldc_callback import PLDCCallback
from ser_personal.finetune.interpreters import MLPInterpreter
from ser_personal.finetune.module import EmotionFineTuning
from ser_personal.pretrain.kmeans import PseudoLabelData
from ser_personal.pretrain.papt import PAPT
from ser_personal.pretrain.teachers import EncoderTeacher
from ser_personal.ranges import require_range, require_scale
from ser_personal.speakers.embedding import SpeakerEmbedding
from ser_personal.speakers.features import SpeakerEmbedder
from ser_personal.speakers.unseen import Nearest


class Parser(OneLineErrors, ArgumentParser):
    pass


NUMBERS = (-inf, -1, 0, 0.5, 1, 2, inf, nan)


@pytest.mark.parametrize(
    ("options", "inside", "allowed"),
    [
        ({"low": 0}, (0, 0.5, 1, 2), "of at least 0"),
        ({"low": 0, "above": True}, (0.5, 1, 2), "above 0"),
        ({"low": 0, "high": 1}, (0, 0.5, 1), "from 0 to 1"),
        ({"low": 0, "high": 1, "above": True}, (0.5, 1), "above 0 and at most 1"),
    ],
)
def test_what_a_range_holds(options, inside, allowed):
    for number in NUMBERS:
        if number in inside:
            require_range("share", number, **options)
        else:
            with pytest.raises(UserError) as caught:
                require_range("share", number, **options)
            assert str(caught.value) == f"share: {number} is out of range. Give a number {allowed}."


@pytest.mark.parametrize("scale", [(7, 1), (3, 3), (nan, 7)])
def test_what_is_no_scale(scale):
    require_scale((-1, 1))
    with pytest.raises(UserError, match="is an empty range"):
        require_scale(scale)


# one number beyond each argument's range
IMPOSSIBLE: dict[type, dict[str, float | str]] = {
    EmotionFineTuning: {
        "unseen_share": 1.1,
        "learning_rate": nan,
        "interpreter_learning_rate": 0,
        "weight_decay": inf,
        "warmup_share": -0.1,
        "min_utterances": 0,
    },
    PAPT: {
        "final_dim": 0,
        "mask_prob": 1.1,
        "mask_length": 0,
        "min_masks": -1,
        "feature_penalty": "null",
        "learning_rate": inf,
        "warmup_share": 1.1,
        "weight_decay": -0.1,
        "seed": -1,
    },
    MLPInterpreter: {"dropout": 1.1, "hidden_dims": "[128,0]"},
    EncoderTeacher: {"teacher_layer": 0},
    SpeakerEmbedding: {"embedding_dim": 0},
    SpeakerEmbedder: {"hidden_dims": "[0]", "dropout": -0.1},
    Nearest: {"k": 0},
    CSVCorpus: {"adaptation_seconds": 0},
    HubertEncoder: {"freeze_layers": -1, "gradient_scale": inf, "dropout": 1.1},
    TinyEncoder: {
        "dim": 0,
        "layers": 0,
        "heads": 3,
        "feed_forward_dim": 0,
        "num_mels": 0,
        "dropout": 1.1,
        "freeze_layers": -1,
    },
    EmotionDataModule: {"batch_seconds": inf, "max_batch": 0, "max_samples": 399, "num_workers": -1, "seed": "null"},
    PretrainDataModule: {
        "batch_seconds": 0,
        "max_samples": 3599,
        "min_samples": -1,
        "held_out": 1,
        "num_workers": -1,
        "seed": 2**31,
    },
    PseudoLabelData: {"batch_seconds": 0, "num_workers": -1},
    PLDCCallback: {"k": 0, "draws": 0, "seed": -1},
}


@pytest.mark.parametrize("kind", IMPOSSIBLE)
def test_impossible_arguments_are_refused_by_name(kind):
    """By the type of the argument on the command line, or by the class itself."""
    parser = Parser(exit_on_error=False)
    parser.add_class_arguments(kind, "it")
    needed = ["--it.encoder=TinyEncoder"] if kind is EncoderTeacher else []
    needed += ["--it.corpus=corpus"] if "corpus" in signature(kind).parameters else []
    for name, value in IMPOSSIBLE[kind].items():
        with pytest.raises(UserError, match=name):
            parser.instantiate(parser.parse_args([f"--it.{name}={value}", *needed]))


@pytest.mark.parametrize("attributes", [(), ("arousal", "valence", "arousal")])
def test_no_attribute_or_one_twice(attributes):
    with pytest.raises(UserError, match=r"^attributes: names .*\. Choose among arousal, valence, dominance, each once"):
        EmotionFineTuning(attributes=attributes)


def test_the_ends_of_the_ranges_are_inside():
    EmotionFineTuning(unseen_share=1, weight_decay=0, warmup_share=0, min_utterances=1)
    PAPT(mask_prob=1, mask_length=1, min_masks=0, feature_penalty=0, warmup_share=1)
    TinyEncoder(layers=2, freeze_layers=2, dropout=1)
    EmotionDataModule("corpus", max_batch=1, max_samples=400)
    PretrainDataModule("corpus", max_samples=3600, min_samples=0)
