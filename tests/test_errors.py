from __future__ import annotations

import logging
import warnings

import pytest

from ser_personal.errors import UserError, silence_warnings


def test_a_message_says_in_one_line_where_what_and_what_to_do():
    error = UserError("broken (a\n  b\tc)", where="corpus.csv", remedy="Choose\n\ntrain")
    assert str(error) == "corpus.csv: broken (a b c). Choose train."
    assert str(UserError("nothing to do", remedy="Give a command")) == "nothing to do. Give a command."


@pytest.mark.parametrize(("verbose", "said"), [(False, ["ours"]), (True, ["GPU available: False", "ours"])])
def test_what_lightning_found_is_said_with_verbose_alone(verbose, said, caplog):
    from lightning.pytorch.trainer import setup
    from lightning.pytorch.utilities import rank_zero_info

    logger = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    before = list(logger.filters)
    try:
        with warnings.catch_warnings():
            silence_warnings(verbose=verbose)
        with caplog.at_level(logging.INFO, logger=logger.name):
            logger.handle(
                logger.makeRecord(logger.name, logging.INFO, setup.__file__, 1, "GPU available: False", (), None)
            )
            rank_zero_info("ours")
    finally:
        logger.filters = before
    assert caplog.messages == said


def test_a_new_run_in_an_old_folder_is_not_warned_of():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        silence_warnings()
        warnings.warn("Checkpoint directory /x exists and is not empty.", stacklevel=1)
        warnings.warn("something else", stacklevel=1)
    assert [str(warning.message) for warning in caught] == ["something else"]
