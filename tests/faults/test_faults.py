"""Every hostile input ends in one line that says what is wrong, and in its exit code; never in a traceback."""

import re
from dataclasses import asdict

import pytest
from command_line import ser
from hostile_arguments import ARGUMENTS, CONFIGS
from hostile_artefacts import ARTEFACTS
from hostile_checkpoints import CHECKPOINTS
from hostile_corpora import CORPORA
from hostile_mistakes import MISTAKES
from hostile_tables import TABLES

FAULTS = [*CORPORA, *TABLES, *CONFIGS, *CHECKPOINTS, *ARTEFACTS, *ARGUMENTS, *MISTAKES]


def filled(word: str, places: dict[str, object]) -> str:
    for name, place in places.items():
        word = word.replace(f"{{{name}}}", str(place))
    return word


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_hostile_input_ends_in_its_line(fault, good, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    places = {**asdict(good), "here": tmp_path}
    fault.make(good, tmp_path)
    capsys.readouterr()
    assert ser(*(filled(word, places) for word in fault.command)) == 2
    shown = capsys.readouterr()
    assert "Traceback" not in shown.out + shown.err
    *before, line = shown.err.splitlines()
    assert re.search(filled(fault.says, places), line), shown.err
    assert line.startswith("ser: ")
    assert not any(other.startswith("ser: ") for other in before)
    assert not (tmp_path / "touched").exists()
