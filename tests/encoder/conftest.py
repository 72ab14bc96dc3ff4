from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tiny_models import NORMS, tiny_network
from transformers.utils import logging

if TYPE_CHECKING:
    from pathlib import Path

logging.disable_progress_bar()
KINDS = [
    ("hubert", "group"),
    ("hubert", "layer"),
    ("wavlm", "layer"),
    ("wav2vec2", "group"),
    ("unispeech-sat", "layer"),
]


@pytest.fixture(scope="session")
def network_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    """A folder with a tiny model for every (model type, norm)."""
    folders = {kind: tmp_path_factory.mktemp("-".join(kind)) for kind in KINDS}
    for kind, folder in folders.items():
        tiny_network(*kind).save_pretrained(folder)
    return folders


@pytest.fixture(params=KINDS, ids="-".join)
def any_folder(request: pytest.FixtureRequest, network_folders: dict[tuple[str, str], Path]) -> str:
    return str(network_folders[request.param])


@pytest.fixture(params=NORMS)
def hubert_folder(request: pytest.FixtureRequest, network_folders: dict[tuple[str, str], Path]) -> str:
    return str(network_folders["hubert", request.param])
