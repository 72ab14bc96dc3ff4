import logging
import warnings
from math import inf, nan

import pytest
from garbage import refused

from ser_personal.data.emotion import EmotionDataModule
from ser_personal.data.speaker_features import CachedSpeakerFeatures
from ser_personal.encoder.hubert import TinyEncoder
from ser_personal.errors import UserError, require_range, silence_warnings
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


RANGES = {
    "of at least 0": ((0, 0.5, 1, 2), {}),
    "above 0": ((0.5, 1, 2), {"above": True}),
    "of at least 0 and at most 1": ((0, 0.5, 1), {"high": 1}),
    "above 0 and at most 1": ((0.5, 1), {"high": 1, "above": True}),
}


@pytest.mark.parametrize("allowed", RANGES)
def test_what_a_range_holds(allowed):
    inside, options = RANGES[allowed]
    for number in (-inf, -1, 0, 0.5, 1, 2, inf, nan):
        if number in inside:
            require_range("share", number, low=0, **options)
        else:
            line = f"^share: {number} is out of range. Give a number {allowed}.$"
            refused(line, require_range, "share", number, low=0, **options)


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
    refused(rf": there is no 'men'\. Give one of {choices}\.", make, "men")
