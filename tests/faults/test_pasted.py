"""What an error tells people to type works when it is pasted."""

from __future__ import annotations

import re
import shlex
from dataclasses import asdict

import pytest
from command_line import ser
from pasted import PASTED, UNPASTED
from test_faults import filled
from test_remedies import remedies


@pytest.mark.parametrize("case", PASTED, ids=lambda case: f"{case.command[0]} {case.words}")
def test_a_flag_works_when_it_is_pasted(case, good, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    places = {**asdict(good), "here": tmp_path}
    case.make(good, tmp_path)
    command = [filled(word, places) for word in case.command]
    capsys.readouterr()
    assert ser(*command) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert case.words in line
    code = ser(*command, *shlex.split(case.words))
    shown = capsys.readouterr()
    assert (code, "") == (0, case.then) or (code == 2 and case.then and case.then in shown.err), shown.err


def test_every_remedy_that_names_a_flag_is_pasted_or_says_why_not():
    pieces = [*(case.remedy for case in PASTED), *(piece for reason in UNPASTED.values() for piece in reason)]
    naming = [text for text in remedies() if re.search(r"--[a-z]", text)]
    assert len(naming) > 60
    assert [text for text in naming if not any(piece in text for piece in pieces)] == []
    assert [piece for piece in pieces if not any(piece in text for text in naming)] == []
