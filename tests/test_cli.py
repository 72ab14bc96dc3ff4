import errno
import inspect
import os
import sqlite3
import subprocess
import sys
from io import BytesIO, TextIOWrapper
from pathlib import Path
from typing import get_type_hints
from unicodedata import normalize

import pytest
import yaml
from command_line import ser, stage
from safetensors import SafetensorError

from ser_personal.arguments import SHIPPED, parse, shipped_names, with_found_configs
from ser_personal.cli import COMMANDS, FLAGS, OUTPUT_CLOSED, RECIPES, STAGES, default_in, find_user_error, shown
from ser_personal.comparison.compare import compare
from ser_personal.corpus.check import check
from ser_personal.corpus.csv_corpus import CSVCorpus
from ser_personal.errors import UserError


def test_names_help_and_mistakes_that_need_no_torch_come_without_it():
    code = """
import sys, ser_personal, ser_personal.cli
print([m for m in sys.modules if m.split('.')[0] in {'torch', 'lightning', 'transformers', 'numpy', 'jsonargparse'}])
from ser_personal import SpeakerBank, calibrate, PosteriorCalibrator, CSVCorpus
mistakes = [["test", "--config", "nowhere.yaml"], ["test"], ["synth"], ["check", "nowhere"]]
print([ser_personal.cli.main(words) for words in ([], ["--help"], *mistakes)], 'torch' in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=600)
    lines = done.stdout.splitlines()
    assert (lines[0], lines[-1]) == ("[]", "[0, 0, 2, 2, 2, 2] False")
    assert {*STAGES, *COMMANDS} <= {line.split()[0] for line in lines if line.startswith("  ")}


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_explain_their_arguments(name, capsys):
    with pytest.raises(SystemExit) as caught:
        ser(name, "--help")
    assert caught.value.code == 0
    shown, function = capsys.readouterr().out, COMMANDS[name].load()
    assert f"usage: ser {name}" in shown
    for parameter in inspect.signature(function).parameters.values():
        assert parameter.name in get_type_hints(function)
        assert parameter.name in shown or parameter.kind is parameter.VAR_KEYWORD


def test_names_that_a_terminal_cant_show(tmp_path, monkeypatch):
    (tmp_path / "corpus.csv").write_text("path,speaker,split\n北京.wav,a,train\n", encoding="utf-8")
    terminal = TextIOWrapper(BytesIO(), encoding="cp1252", errors="strict")
    monkeypatch.setattr(sys, "stdout", terminal)
    assert ser("check", tmp_path / "corpus.csv") == 1
    terminal.flush()
    assert rb"\u5317\u4eac" in terminal.buffer.getvalue()


@pytest.mark.parametrize(("form", "other"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_a_path_in_unicodes_other_form_is_found(form, other, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path(normalize(form, "é.csv")).write_text("path,speaker,split\na.wav,a,train\n")
    for words in (["check", "é.csv"], ["baseline", "--corpus=é.csv", "--out", "out"]):
        assert ser(*(normalize(other, word) for word in words)) in (1, 2)
        assert "no such" not in capsys.readouterr().err


@pytest.mark.skipif(os.name == "nt", reason="Windows has no broken pipes")
def test_output_that_nobody_reads_any_more_is_no_mistake():
    """As in `ser --help | head -1`."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "ser_personal.cli", "--help"]
    ran = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, check=False)
    assert (ran.returncode, ran.stderr) == (OUTPUT_CLOSED, b"")


def test_a_mistake_is_found_under_what_was_raised_from_it():
    mistake = UserError("wrong", remedy="Mend it")
    wrapped = ValueError("wrapped")
    wrapped.__cause__ = TypeError("wrapped again")
    wrapped.__cause__.__context__ = mistake
    assert find_user_error(wrapped) is mistake
    assert find_user_error(ValueError("a bug")) is None
    assert find_user_error(OSError("it broke")).what == "it broke"


def test_a_full_disk_is_one_line_whoever_finds_it():
    for error in (
        OSError(errno.ENOSPC, "No space left on device"),
        OSError("100000 requested and 25584 written"),
        sqlite3.OperationalError("database or disk is full"),
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 704 vs 598"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ):
        assert str(find_user_error(error)) == "the disk is full. Free some space there, or write to another disk."


def command(corpus: str, out: str, num_clusters: int = 3, keep_all: bool = False) -> None:
    """Do something."""


def parsed(*arguments: str) -> dict[str, object]:
    return parse(command, "ser command", ("corpus",), arguments)


DEFAULTS = {"corpus": "c", "out": "o", "num_clusters": 3, "keep_all": False}


def test_flags_change_the_defaults_of_the_signature_in_any_spelling(tmp_path):
    (tmp_path / "corpus.csv").write_text("path,speaker,split\n")
    for flags, changed in (
        ([], {}),
        *((words, {"num_clusters": 5}) for words in (["--num-clusters", "5"], ["--num_clusters=5"])),
        (["--out=--my-folder"], {"out": "--my-folder"}),
        *((words, {"keep_all": True}) for words in (["--keep-all"], ["--keep_all", "true"], ["--keep-all=true"])),
        (["--keep-all", "--out=p"], {"keep_all": True, "out": "p"}),
        (["--keep-all", "false"], {}),
    ):
        assert parsed("c", "--out", "o", *flags) == DEFAULTS | changed
        # an existing table stays a path
        table = str(tmp_path / "corpus.csv")
        assert parsed(table, "--out", "o", *flags) == DEFAULTS | changed | {"corpus": table}


def test_a_config_gives_values_that_flags_override(tmp_path: Path):
    (tmp_path / "c.yaml").write_text("num_clusters: 7\nout: yaml\n")
    path = str(tmp_path / "c.yaml")
    for config in (["--config", path], ["-c", path], [f"-c={path}"]):
        for words in (["c", *config, "--out", "flag"], ["c", "--out", "flag", *config]):
            values = parsed(*words)
            assert (values["num_clusters"], values["out"]) == (7, "flag")


def test_positionals_are_classes_names_or_several_words():
    for arguments in (
        ["CSVCorpus", "--corpus.path", "c.csv", "--corpus.scale", "[1,5]"],
        ["--corpus.path=c.csv", "CSVCorpus", "--corpus.scale=[1,5]"],
        ["--corpus.scale", "[1,5]", "--corpus", "CSVCorpus", "--corpus.path", "c.csv"],
        ['{"class_path": "CSVCorpus", "init_args": {"path": "c.csv", "scale": [1, 5]}}'],
    ):
        corpus = parse(check, "ser check", ("corpus",), arguments)["corpus"]
        assert isinstance(corpus, CSVCorpus)
        assert (str(corpus.label_file), corpus.scale) == ("c.csv", (1, 5))
    for arguments in (["--corpus", "c"], ["--corpus=c"], ["c"]):
        assert parse(check, "ser check", ("corpus",), arguments)["corpus"] == "c"
        assert parsed("--out", "o", *arguments)["corpus"] == "c"
    for arguments in (["a", "b"], ["--runs", "a", "b"], ["--baseline", "b", "a", "b"]):
        assert parse(compare, "ser compare", ("runs",), arguments)["runs"] == ["a", "b"]


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_page_shows_what_the_parser_takes(recipe, monkeypatch):
    # parsed, neither built nor run
    monkeypatch.setattr("ser_personal.stages.stage_cli.StageCLI.instantiate_classes", lambda _: None)
    monkeypatch.setattr("ser_personal.stages.stage_cli.StageCLI._run_subcommand", lambda *_: None)
    config = stage(*with_found_configs(["fit", "--config", recipe])).config["fit"].as_dict()
    content = yaml.safe_load((SHIPPED / recipe).read_text())
    for flag in FLAGS:
        part, _, name = flag.removeprefix("--").partition(".")
        arguments = config.get(part, {}) if name else config
        arguments = arguments.get("init_args", arguments)
        value = shown(arguments[name or part]) if (name or part) in arguments else "-"
        assert default_in(content, RECIPES.index(recipe), flag) == value, flag


def test_the_page_of_a_stage_names_each_recipe(capsys):
    assert ser("fit", "--help") == 0
    page = capsys.readouterr().out
    assert all(config in page for config in shipped_names())
    assert max(map(len, page.splitlines())) <= 112
