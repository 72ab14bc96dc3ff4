from __future__ import annotations

import logging
import warnings

import pytest

from ser_personal.errors import UserError, silence_warnings


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            UserError("no such split", where="corpus.csv", remedy="choose train"),
            "corpus.csv: no such split. choose train.",
        ),
        (UserError("nothing to do", remedy="give a command"), "nothing to do. give a command."),
        (UserError("broken (a\n  b\tc)", where="a\nb", remedy="see\n\nthere"), "a b: broken (a b c). see there."),
    ],
    ids=["with a place", "without a place", "one line even where a library said many"],
)
def test_a_message_says_where_what_and_what_to_do(error, message):
    assert str(error) == message


def test_lightnings_advertisement_is_left_out_and_its_other_lines_are_not(caplog):
    logger = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    before = list(logger.filters)
    try:
        with warnings.catch_warnings():
            silence_warnings()
        with caplog.at_level(logging.INFO, logger=logger.name):
            logger.info("Tip: for seamless logging, install litlogger")
            logger.info("GPU available: False")
    finally:
        logger.filters = before
    assert caplog.messages == ["GPU available: False"]


def test_a_new_run_in_an_old_folder_is_not_warned_of():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        silence_warnings()
        warnings.warn("Checkpoint directory /x exists and is not empty.", stacklevel=1)
        warnings.warn("something else", stacklevel=1)
    assert [str(warning.message) for warning in caught] == ["something else"]
