from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from garbage import INPUTS, files, is_read_or_refused
from hypothesis import example, given, settings

from ser_personal.cli import check_before_imports
from ser_personal.config_files import SHIPPED, find_config, shipped_names, with_found_configs
from ser_personal.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path


def test_a_config_is_found_by_the_name_of_one_that_ships(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert find_config("tiny/papt.yaml") == find_config("configs/tiny/papt.yaml") == SHIPPED / "tiny" / "papt.yaml"
    assert {"papt.yaml", "tiny/papt.yaml"} <= set(shipped_names())
    found = with_found_configs(["fit", "--config", "papt.yaml", "--config=tiny/papt.yaml", "-c", "trainer: {}\n"])
    assert found == [
        "fit",
        "--config",
        f"{SHIPPED}/papt.yaml",
        f"--config={SHIPPED}/tiny/papt.yaml",
        "-c",
        "trainer: {}\n",
    ]
    assert capsys.readouterr().err == "".join(
        f"config {name} is {SHIPPED}/{name}\n" for name in ("papt.yaml", "tiny/papt.yaml")
    )


def test_a_file_of_the_folder_wins_and_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "papt.yaml").write_text("trainer: {}\n")
    (tmp_path / "mine.yaml").write_text("trainer: {}\n")
    assert with_found_configs(["--config", "papt.yaml", "--config", "mine.yaml"])[1::2] == ["papt.yaml", "mine.yaml"]
    assert capsys.readouterr().err == "config papt.yaml is the file of this folder, not the one that ships\n"


@pytest.mark.parametrize(
    ("name", "remedy"), [("paptt.yaml", "Did you mean papt.yaml"), ("../pyproject.toml", "one that ships: adapt.yaml")]
)
def test_a_config_that_is_nowhere(name, remedy, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=remedy):
        find_config(name)


CONFIG = b"trainer:\n  max_epochs: 3\nmodel:\n  class_path: PAPT\n  init_args: {fusion: last}\nckpt_path: null\n"


@pytest.fixture(scope="module")
def spoilt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("garbage") / "config.yaml"


# YAML is the slowest to read of all that is spoilt
@settings(max_examples=INPUTS // 5)
@given(content=files(CONFIG))
@example(content=CONFIG)
def test_garbage_as_a_config(spoilt, content):
    spoilt.write_bytes(content)
    is_read_or_refused(lambda: check_before_imports("test", ["--config", str(spoilt)]))
