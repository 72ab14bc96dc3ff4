from __future__ import annotations

import os
import subprocess
import sys

import pytest
from command_line import REPOSITORY

from ser_personal.config_files import SHIPPED, find_config, shipped_names, with_found_configs
from ser_personal.errors import UserError

MAIN_LINE = """
from pathlib import Path
import ser_personal
from ser_personal.cli import main

assert Path(ser_personal.__file__).is_relative_to(Path("site").resolve()), ser_personal.__file__
data, quick = ["--data.corpus", "corpus"], ["--trainer.max_epochs", "1", "--trainer.accelerator", "cpu"]
finetune = ["--config", "finetune.yaml", "--config", "configs/tiny/finetune.yaml", *data, *quick]
for command in (
    ["synth", "--out", "corpus", "--speakers", "10", "--utterances", "4"],
    ["fit", *finetune],
    ["test", *finetune, "--config", "pldc.yaml", "--ckpt_path", "finetune.ckpt"],
):
    assert main(command) == 0, command
assert len(list(Path().rglob("predictions.csv"))) == 1
"""


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


def test_the_wheel_runs_outside_the_repository(tmp_path):
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    build = ["wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path), str(REPOSITORY)]
    subprocess.run([*pip, *build], check=True, timeout=600)
    (wheel,) = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    subprocess.run(
        [*pip, "install", "--quiet", "--no-deps", "--target", str(site), str(wheel)], check=True, timeout=600
    )
    environment = os.environ | {"PYTHONPATH": str(site)}
    call = [sys.executable, "-c", MAIN_LINE]
    ran = subprocess.run(call, check=False, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert f"config finetune.yaml is {site / 'ser_personal' / 'configs' / 'finetune.yaml'}" in ran.stderr
