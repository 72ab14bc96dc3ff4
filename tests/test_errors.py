from __future__ import annotations

from pathlib import Path

from ser_personal.errors import UserError


def test_message_says_where_what_and_what_to_do():
    error = UserError("no such split", where=Path("corpus.csv"), remedy="choose one of train, test1")
    assert str(error) == "corpus.csv: no such split. choose one of train, test1."
    assert (error.what, error.where, error.remedy) == (
        "no such split",
        Path("corpus.csv"),
        "choose one of train, test1",
    )


def test_message_without_a_place():
    assert str(UserError("nothing to do", remedy="give a command")) == "nothing to do. give a command."


def test_message_is_one_line_even_where_a_library_spoke_many():
    error = UserError("can't be decoded (first\n  second\tthird)", where="a\nb", remedy="see\n\nthere")
    assert str(error) == "a b: can't be decoded (first second third). see there."
