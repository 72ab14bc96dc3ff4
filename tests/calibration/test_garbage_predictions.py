from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
import pytest
from garbage import files, is_read_or_refused, many_inputs
from hypothesis import given
from safetensors.numpy import save

from ser_personal.calibration.command import read_predictions, read_vectors

if TYPE_CHECKING:
    from pathlib import Path

PREDICTIONS = b"utterance,speaker,split,arousal_raw,arousal_label\nu,x,test1,1.5,\nv,,,2.5,7\n"
TABLE = b"utterance,0,1\nu,1,2.5\nv,3,4\n"
VECTORS = {"u": np.zeros(2, np.float32), "v": np.ones(2, np.float32)}


def npz() -> bytes:
    file = BytesIO()
    np.savez(file, **VECTORS)
    return file.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("garbage")


def read(path: Path) -> object:
    return read_predictions(path, {"u": np.zeros(2), "v": np.ones(2)}, named_by="raw", default_split="test1")


def test_what_is_spoilt_below_can_be_read_whole(folder):
    (folder / "predictions.csv").write_bytes(PREDICTIONS)
    assert len(read(folder / "predictions.csv").utterance_ids) == 2
    for name, content in {"vectors.csv": TABLE, "vectors.npz": npz(), "vectors.safetensors": save(VECTORS)}.items():
        (folder / name).write_bytes(content)
        assert set(read_vectors(folder / name)) == {"u", "v"}


@many_inputs
@given(content=files(PREDICTIONS))
def test_garbage_as_predictions(folder, content):
    path = folder / "predictions.csv"
    path.write_bytes(content)
    is_read_or_refused(lambda: read(path))


@many_inputs
@given(content=files(TABLE))
def test_garbage_as_a_table_of_vectors(folder, content):
    path = folder / "vectors.csv"
    path.write_bytes(content)
    is_read_or_refused(lambda: read_vectors(path))


@many_inputs
@given(content=files(npz()))
def test_garbage_as_npz(folder, content):
    path = folder / "vectors.npz"
    path.write_bytes(content)
    is_read_or_refused(lambda: read_vectors(path))


@many_inputs
@given(content=files(save(VECTORS)))
def test_garbage_as_safetensors(folder, content):
    path = folder / "vectors.safetensors"
    path.write_bytes(content)
    is_read_or_refused(lambda: read_vectors(path))
