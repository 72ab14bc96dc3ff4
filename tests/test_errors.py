import logging
import warnings
from inspect import signature
from math import inf, nan

import pytest
from jsonargparse import ArgumentParser

from ser_personal.arguments import OneLineErrors
from ser_personal.data.emotion import EmotionDataModule
from ser_personal.data.pretrain import PretrainDataModule
from ser_personal.data.speaker_features import CachedSpeakerFeatures
from ser_personal.encoder.hubert import HubertEncoder, TinyEncoder
from ser_personal.errors import UserError, require_range, silence_warnings
from ser_personal.finetune.interpreters import MLPInterpreter
from ser_personal.finetune.module import EmotionFineTuning
from ser_personal.finetune.similar_speakers import SimilarSpeakers
from ser_personal.pretrain.papt import PAPT
from ser_personal.recognition.recordings import recordings_of
from ser_personal.recognition.segmenters import make_segmenter


def test_a_message_says_in_one_line_where_what_and_what_to_do():
    error = UserError("broken (a\n  b\tc)", where="corpus.csv", remedy="Choose\n\ntrain")
    assert str(error) == "corpus.csv: broken (a b c). Choose train."
    for nowhere in (None, ""):
        error = UserError("nothing to do", where=nowhere, remedy="Give a command")
        assert str(error) == "nothing to do. Give a command."


@pytest.mark.parametrize(("verbose", "said"), [(False, ["ours"]), (True, ["GPU available: False", "ours"])])
def test_what_lightning_found_is_said_with_verbose_alone(verbose, said, caplog, monkeypatch):
    from lightning.pytorch.trainer import setup
    from lightning.pytorch.utilities import rank_zero_info

    logger = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    monkeypatch.setattr(logger, "filters", list(logger.filters))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        silence_warnings(verbose=verbose)
        # of a new run in an old folder
        warnings.warn("Checkpoint directory /x exists and is not empty.", stacklevel=1)
    with caplog.at_level(logging.INFO, logger=logger.name):
        found = "GPU available: False"
        logger.handle(logger.makeRecord(logger.name, logging.INFO, setup.__file__, 1, found, (), None))
        rank_zero_info("ours")
    assert caplog.messages == said
    assert not caught


@pytest.mark.parametrize(
    ("options", "inside", "allowed"),
    [
        ({"low": 0}, (0, 0.5, 1, 2), "of at least 0"),
        ({"low": 0, "above": True}, (0.5, 1, 2), "above 0"),
        ({"low": 0, "high": 1}, (0, 0.5, 1), "of at least 0 and at most 1"),
        ({"low": 0, "high": 1, "above": True}, (0.5, 1), "above 0 and at most 1"),
    ],
)
def test_what_a_range_holds(options, inside, allowed):
    for number in (-inf, -1, 0, 0.5, 1, 2, inf, nan):
        if number in inside:
            require_range("share", number, **options)
        else:
            with pytest.raises(UserError) as caught:
                require_range("share", number, **options)
            assert str(caught.value) == f"share: {number} is out of range. Give a number {allowed}."


@pytest.mark.parametrize(
    ("make", "choices"),
    [
        (lambda name: EmotionDataModule("nowhere", target=name), "attributes, emotion"),
        (lambda name: CachedSpeakerFeatures("nowhere", name), "mean, max, moments"),
        (SimilarSpeakers, "unique, oversampling, weighting"),
        (lambda name: PAPT(TinyEncoder(), fusion=name), "none, first, prefix, concat, last"),
        (lambda name: recordings_of("a.wav", channel=name), "mix, left, right, each"),
        (lambda name: make_segmenter(name, max_samples=1, window_seconds=1), "speech, silero, energy, windows"),
    ],
)
def test_a_misspelt_choice_is_not_taken_for_another(make, choices):
    with pytest.raises(UserError, match=rf": there is no 'men'\. Give one of {choices}\."):
        make("men")


class Parser(OneLineErrors, ArgumentParser):
    pass


# a number beyond each sort of range, some of which the class itself refuses; most ranges are types of arguments
IMPOSSIBLE: dict[type, dict[str, float | str]] = {
    EmotionFineTuning: {"unseen_share": 1.1, "learning_rate": nan, "weight_decay": inf, "warmup_share": -0.1},
    PAPT: {"final_dim": 0, "mask_prob": 1.1, "min_masks": -1, "feature_penalty": "null", "seed": -1},
    MLPInterpreter: {"dropout": 1.1, "hidden_dims": "[128,0]"},
    HubertEncoder: {"freeze_layers": -1, "gradient_scale": inf},
    TinyEncoder: {"layers": 0, "heads": 3, "freeze_layers": -1},
    EmotionDataModule: {"batch_seconds": inf, "max_samples": 399, "num_workers": -1, "seed": "null"},
    PretrainDataModule: {"max_samples": 3599, "held_out": 1, "seed": 2**31},
}


@pytest.mark.parametrize("kind", IMPOSSIBLE)
def test_impossible_arguments_are_refused_by_name(kind):
    parser = Parser()
    parser.add_class_arguments(kind, "it")
    needed = ["--it.corpus=corpus"] if "corpus" in signature(kind).parameters else []
    for name, value in IMPOSSIBLE[kind].items():
        with pytest.raises(UserError, match=name):
            parser.instantiate(parser.parse_args([f"--it.{name}={value}", *needed]))
