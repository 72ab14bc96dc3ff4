from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path
from typing import get_type_hints

import pytest
from command_line import ser

from ser_personal.cli import COMMANDS, STAGES, find_user_error
from ser_personal.errors import UserError


def test_help_lists_every_command_and_imports_no_torch():
    code = "import sys; from ser_personal.cli import main; main(); print('torch' in sys.modules)"
    command = [sys.executable, "-c", code, "--help"]
    lines = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout.splitlines()
    assert lines[-1] == "False"
    assert {*STAGES, *COMMANDS} <= {line.split()[0] for line in lines if line.startswith("  ")}


@pytest.mark.parametrize("arguments", [["test", "--config", "nowhere.yaml"], ["test"], ["synth"], ["check", "nowhere"]])
def test_mistakes_that_need_no_torch_are_found_without_it(arguments):
    code = "import sys; from ser_personal.cli import main; print(main(), 'torch' in sys.modules)"
    command = [sys.executable, "-c", code, *arguments]
    assert subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout == "2 False\n"


def test_the_installed_command_is_this_one():
    command = [str(Path(sys.executable).parent / "ser"), "--version"]
    version = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout
    assert version.split(".")[0].isdigit()


def test_without_arguments_help_is_shown(capsys):
    assert ser() == 0
    assert capsys.readouterr().out.startswith("usage: ser COMMAND")


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_exist_as_typed_functions(name):
    command = COMMANDS[name]
    function = command.load()
    parameters = inspect.signature(function).parameters
    assert set(command.positional) <= set(parameters)
    assert set(parameters) <= set(get_type_hints(function))


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_explain_their_arguments(name, capsys):
    with pytest.raises(SystemExit) as caught:
        ser(name, "--help")
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    assert f"usage: ser {name}" in shown
    for parameter in inspect.signature(COMMANDS[name].load()).parameters.values():
        assert parameter.name in shown or parameter.kind is parameter.VAR_KEYWORD


def test_arguments_without_a_flag_are_explained_as_well(capsys):
    with pytest.raises(SystemExit):
        ser("calibrate", "--help")
    assert "arousal_raw" in capsys.readouterr().out


@pytest.mark.parametrize("name", STAGES)
def test_stages_explain_their_arguments(name, capsys):
    with pytest.raises(SystemExit) as caught:
        ser(name, "--help")
    assert caught.value.code == 0
    assert f"usage: ser [options] {name}" in capsys.readouterr().out


def test_synth_writes_what_check_approves(tmp_path, capsys):
    flags = ["--speakers=12", "--utterances", 2, "--min-seconds", 0.5, "--max_seconds", 1, "--shared-expression"]
    assert ser("synth", "--out", tmp_path / "corpus", *flags) == 0
    assert ser("check", tmp_path / "corpus") == 0
    assert "No problem found." in capsys.readouterr().out


def test_check_of_a_table_exits_with_1_where_training_would_fail(tmp_path, capsys):
    (tmp_path / "corpus.csv").write_text("path,speaker,split\nnot_there.wav,a,train\n")
    assert ser("check", tmp_path / "corpus.csv") == 1
    assert "audio file missing" in capsys.readouterr().out


def test_a_mistake_is_found_under_what_was_raised_from_it():
    mistake = UserError("wrong", remedy="Mend it")
    wrapped = ValueError("wrapped")
    wrapped.__cause__ = TypeError("wrapped again")
    wrapped.__cause__.__context__ = mistake
    assert find_user_error(wrapped) is mistake
    assert find_user_error(ValueError("a bug")) is None


def test_a_bug_keeps_its_traceback(monkeypatch):
    def broken(*_):
        raise ZeroDivisionError

    monkeypatch.setattr("ser_personal.cli.run_command", broken)
    with pytest.raises(ZeroDivisionError):
        ser("check", "corpus")
