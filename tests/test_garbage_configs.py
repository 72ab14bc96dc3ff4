from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from garbage import files, is_read_or_refused, many_inputs
from hypothesis import given

from ser_personal.cli import check_before_imports
from ser_personal.config_files import read_configs

if TYPE_CHECKING:
    from pathlib import Path

CONFIG = b"trainer:\n  max_epochs: 3\nmodel:\n  class_path: PAPT\n  init_args: {fusion: last}\nckpt_path: null\n"


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("garbage") / "config.yaml"


def test_what_is_spoilt_below_can_be_read_whole(path):
    path.write_bytes(CONFIG)
    assert read_configs(["--config", str(path)])[str(path)]["model"]["class_path"] == "PAPT"


@many_inputs
@given(content=files(CONFIG))
def test_garbage_as_a_config(path, content):
    path.write_bytes(content)
    is_read_or_refused(lambda: check_before_imports("test", ["--config", str(path)]))
