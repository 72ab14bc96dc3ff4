from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import pytest

from ser_personal.cli import parse, values_of
from ser_personal.corpus.check import check
from ser_personal.corpus.csv_corpus import CSVCorpus
from ser_personal.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path


def command(
    corpus: str, out: str, num_clusters: int = 3, mode: Literal["mean", "zero"] = "mean", keep_all: bool = False
) -> None:
    """Do something.

    Args:
        corpus: positional.
        out: required.
        num_clusters: a number.
        mode: a choice.
        keep_all: a switch.
    """


def parsed(*arguments: str) -> dict[str, object]:
    return parse(command, "ser command", ("corpus",), arguments)


def test_defaults_come_from_the_signature():
    expected = {"corpus": "c", "out": "o", "num_clusters": 3, "mode": "mean", "keep_all": False}
    assert parsed("c", "--out", "o") == expected


@pytest.mark.parametrize("flag", ["--num-clusters", "--num_clusters"])
def test_dashes_are_as_good_as_underscores(flag):
    assert parsed("c", "--out", "o", flag, "5")["num_clusters"] == 5
    assert parsed("c", "--out", "o", f"{flag}=5")["num_clusters"] == 5


def test_dashes_in_values_stay():
    assert parsed("my-corpus", "--out", "my-folder")["out"] == "my-folder"
    assert parsed("c", "--out=--my-folder")["out"] == "--my-folder"


@pytest.mark.parametrize(
    "flags", [("--keep-all",), ("--keep_all",), ("--keep-all", "true"), ("--keep-all=true",), ("--keep-all", "--out=p")]
)
def test_a_lone_flag_means_true(flags):
    assert parsed("c", "--out", "o", *flags)["keep_all"] is True


def test_a_flag_can_say_false():
    assert parsed("c", "--out", "o", "--keep-all", "false")["keep_all"] is False


def test_a_config_gives_values_that_flags_override(tmp_path: Path):
    (tmp_path / "c.yaml").write_text("num_clusters: 7\nout: yaml\n")
    values = parsed("c", "--config", str(tmp_path / "c.yaml"), "--out", "flag")
    assert (values["num_clusters"], values["out"]) == (7, "flag")


def test_an_existing_table_stays_a_path(tmp_path: Path):
    table = tmp_path / "corpus.csv"
    table.write_text("path,speaker,split\n")
    assert parsed(str(table), "--out", str(table)) == parsed(str(table), "--out", str(table)) | {"corpus": str(table)}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["c"], "the following arguments are required: out"),
        (["--out", "o"], "the following arguments are required: corpus"),
        (["c", "--out", "o", "--foo", "1"], "unrecognized arguments: --foo 1"),
        (["c", "d", "--out", "o"], "unrecognized arguments: d"),
        (["c", "--out", "o", "--num-clusters", "many"], "--num_clusters: many is no int"),
        (["c", "--out", "o", "--mode", "most"], "--mode: most is none of 'mean', 'zero'"),
        (["c", "--out", "o", "--keep-all", "perhaps"], "--keep_all: perhaps is no bool"),
        (["c", "--out"], "argument --out: expected one argument"),
    ],
)
def test_mistakes_are_one_line(arguments, message):
    with pytest.raises(UserError) as caught:
        parsed(*arguments)
    assert str(caught.value) == f"{message}. `ser command --help` lists the arguments."


def test_values_of_a_flag_in_either_form():
    assert values_of(["--config"], ["--config", "a", "--config=b", "--configs", "c", "--config"]) == ["a", "b"]
    assert values_of(["--config", "-c"], ["--config=a", "-c", "b", "--config", "c", "-c=d"]) == ["a", "b", "c", "d"]


CLASS_FORMS = [
    ["CSVCorpus", "--corpus.path", "c.csv", "--corpus.scale", "[1,5]"],
    ["--corpus.path=c.csv", "CSVCorpus", "--corpus.scale=[1,5]"],
    ["--corpus.scale", "[1,5]", "--corpus", "CSVCorpus", "--corpus.path", "c.csv"],
    ['{"class_path": "CSVCorpus", "init_args": {"path": "c.csv", "scale": [1, 5]}}'],
]


@pytest.mark.parametrize("arguments", CLASS_FORMS)
def test_a_class_may_stand_where_a_positional_is_wanted(arguments):
    corpus = parse(check, "ser check", ("corpus",), arguments)["corpus"]
    assert isinstance(corpus, CSVCorpus)
    assert (str(corpus.label_file), corpus.scale) == ("c.csv", (1, 5))


@pytest.mark.parametrize("arguments", [["--corpus", "c"], ["--corpus=c"], ["c"]])
def test_a_positional_may_be_given_by_name(arguments):
    assert parse(check, "ser check", ("corpus",), arguments)["corpus"] == "c"
    assert parsed(*arguments, "--out", "o")["corpus"] == "c"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["c.csv", "--corpus", "d.csv"], "unrecognized arguments: d.csv"),
        (["--corpus"], "the following arguments are required: corpus"),
        (["--corpus.path", "c.csv"], "the following arguments are required: corpus"),
    ],
)
def test_mistakes_with_a_positional_by_name(arguments, message):
    with pytest.raises(UserError, match=message):
        parse(check, "ser check", ("corpus",), arguments)
