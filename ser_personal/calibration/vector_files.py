"""Pooled vectors by utterance, from a table, an .npz or a .safetensors file."""

from __future__ import annotations

import zipfile
import zlib
from typing import TYPE_CHECKING

import numpy as np

from ser_personal.corpus.table import read_csv_rows
from ser_personal.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

Vectors = dict[str, "NDArray[np.float64]"]


def read_vectors(path: Path) -> Vectors:
    """Read utterance -> vector (dim,).

    Args:
        path: .npz or .safetensors with an array for each utterance, by its name; or else a table with the column
            utterance and one column for each dimension, in the vector's order.

    Raises:
        UserError: the file can't be read or holds no vectors, or vectors of several lengths.
    """
    readers = {".npz": _read_npz, ".safetensors": _read_safetensors}
    vectors = readers.get(path.suffix.lower(), _read_table)(path)
    shapes = sorted({vector.shape for vector in vectors.values()})
    if len(shapes) != 1 or len(shapes[0]) != 1:
        raise UserError(
            f"holds arrays of the shapes {', '.join(map(str, shapes[:3])) or 'none'}",
            where=path,
            remedy="Give one vector for each utterance, all of one length",
        )
    return vectors


def _read_npz(path: Path) -> Vectors:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: np.asarray(arrays[name], dtype=np.float64) for name in arrays.files}
    except FileNotFoundError as error:
        raise _missing(path) from error
    # a RuntimeError is of an entry that is encrypted or compressed in a way that nobody supports
    except (OSError, EOFError, MemoryError, RuntimeError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(
            f"isn't a whole .npz file of numbers ({error})", where=path, remedy="Write it with numpy.savez"
        ) from error


def _read_safetensors(path: Path) -> Vectors:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return {name: array.astype(np.float64) for name, array in load_file(path).items()}
    except FileNotFoundError as error:
        raise _missing(path) from error
    except (OSError, SafetensorError, KeyError) as error:
        raise UserError(
            f"isn't a whole safetensors file of numbers ({error})", where=path, remedy="Write it with safetensors"
        ) from error


def _read_table(path: Path) -> Vectors:
    rows = read_csv_rows(path, required=("utterance",), filled=("utterance",))
    vectors = {}
    for row in rows:
        name = row.pop("utterance")
        try:
            vectors[name] = np.array(list(row.values()), dtype=np.float64)
        except ValueError as error:
            raise UserError(
                f"the vector of utterance {name} holds what is no number ({error})",
                where=path,
                remedy="Give the column utterance, and one column of numbers for each dimension",
            ) from error
    return vectors


def _missing(path: Path) -> UserError:
    return UserError("no such file", where=path, remedy="Check the spelling of the path")
