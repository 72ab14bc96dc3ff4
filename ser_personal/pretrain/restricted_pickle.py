"""Reads the arrays of a pickle, and runs nothing in it: what `ser import` reads released models by."""

from __future__ import annotations

import pickle
import zipfile
from collections import OrderedDict
from math import prod
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any, ClassVar

import numpy as np
import torch
from torch._utils import _rebuild_parameter, _rebuild_tensor_v2

from ser_personal.errors import UserError

# whose classes are kept as data and never imported
_PACKAGES = "argparse collections enum examples fairseq hydra numpy omegaconf pathlib sklearn torch typing"
_BUILTINS = "bool bytearray bytes complex dict float frozenset int list object set slice str tuple"
INERT_PACKAGES, INERT_BUILTINS = frozenset(_PACKAGES.split()), frozenset(_BUILTINS.split())
TORCH_LEGACY_START = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."


def read_arrays(path: Path) -> Any:
    """Read a torch checkpoint (zip or legacy) or a joblib dump: plain containers, arrays, tensors and `Inert`."""
    try:
        with path.open("rb") as file:
            start = file.read(len(TORCH_LEGACY_START))
            file.seek(0)
            if not start.startswith((b"PK", TORCH_LEGACY_START)):
                return RestrictedUnpickler(file).load()
        return _torch_load(path, zipped=start.startswith(b"PK"))
    except FileNotFoundError as error:
        raise UserError("no such file", where=path, remedy="Give a released checkpoint or codebook") from error
    except UserError as error:
        raise UserError(error.what, where=path, remedy=error.remedy) from error
    except Exception as error:
        what = f"can't be read as a torch checkpoint or a joblib dump ({type(error).__name__}: {error})"
        remedy = "Download it again; a compressed dump must be unpacked first"
        raise UserError(what, where=path, remedy=remedy) from error


def _torch_load(path: Path, *, zipped: bool) -> Any:
    # torch would run a TorchScript program without our unpickler
    if zipped and any(name.endswith("/constants.pkl") for name in zipfile.ZipFile(path).namelist()):
        raise pickle.UnpicklingError("a TorchScript program")
    ours = SimpleNamespace(
        __name__="restricted",
        Unpickler=RestrictedUnpickler,
        load=lambda file, **options: RestrictedUnpickler(file, **options).load(),
    )
    # weights_only would refuse the configurations in these files; our unpickler makes them inert instead.
    return torch.load(path, "cpu", pickle_module=ours, weights_only=False, mmap=zipped)


class Inert:
    """Stands for an object of a class that isn't imported: keeps its pickled state, ignores arguments and items."""

    state: Any = None

    def __init__(self, *_arguments: object, **_options: object) -> None: ...

    def __setstate__(self, state: object) -> None:
        self.state = state

    def _ignore(self, *_: object) -> None: ...

    __setitem__ = append = extend = add = _ignore


class JoblibArray(Inert):
    """joblib's note that an array's bytes follow in the file."""

    def read(self, file: IO[bytes]) -> np.ndarray[Any, Any]:
        """Read those bytes."""
        dtype, shape = self.state["dtype"], self.state["shape"]
        if not isinstance(dtype, np.dtype) or dtype.hasobject:
            raise pickle.UnpicklingError("array of objects")
        # joblib before 1.2 didn't align
        if self.state.get("numpy_array_alignment_bytes") is not None:
            file.read(file.read(1)[0])
        values = np.frombuffer(file.read(prod(shape) * dtype.itemsize), dtype)
        return values.reshape(shape, order=self.state["order"])


def _empty_array(*_: object) -> np.ndarray[Any, Any]:
    return np.empty(0, dtype=np.int8)


def _latin1(text: str, _encoding: str = "latin1") -> bytes:
    return text.encode("latin1")


def _scalar(dtype: np.dtype[Any], value: bytes) -> Any:
    if dtype.hasobject:
        raise pickle.UnpicklingError("scalar of objects")
    return np.frombuffer(value, dtype)[0]


ALLOWED: dict[str, Any] = {
    "_codecs.encode": _latin1,
    "collections.OrderedDict": OrderedDict,
    "joblib.numpy_pickle.NumpyArrayWrapper": JoblibArray,
    "numpy.core.multiarray._reconstruct": _empty_array,
    "numpy.core.multiarray.scalar": _scalar,
    "numpy.dtype": np.dtype,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor_v2,
}


# The one written in Python: the one in C can't be cut down.
_Unpickler: Any = vars(pickle)["_Unpickler"]


class RestrictedUnpickler(_Unpickler):
    """Reads a pickle, cut down in what it may import, call and restore."""

    dispatch: ClassVar[dict[int, Any]] = dict(_Unpickler.dispatch)

    def __init__(self, file: IO[bytes], **options: Any) -> None:
        super().__init__(file, **options)
        self._source = file

    def find_class(self, module: str, name: str) -> Any:
        """Look up a name of the pickle in our own list; anything else is refused."""
        # torch.save writes a protocol that names builtins as Python 2 did, and NumPy 2 has renamed a module
        module = {"__builtin__": "builtins", "numpy._core.multiarray": "numpy.core.multiarray"}.get(module, module)
        full = f"{module}.{name}"
        if full in ALLOWED:
            return ALLOWED[full]
        if module.partition(".")[0] in INERT_PACKAGES or (module == "builtins" and name in INERT_BUILTINS):
            return Inert
        what = f"names {full}, which no released checkpoint or codebook needs"
        remedy = "Don't load it with anything else either, unless you trust where it comes from"
        raise UserError(what, remedy=remedy)

    def load_build(self) -> None:
        """Restore the state of an object, and fetch the array that a joblib dump announces."""
        if not isinstance(self.stack[-2], (Inert, np.ndarray, np.dtype, OrderedDict)):
            raise pickle.UnpicklingError(f"state for {type(self.stack[-2]).__name__}")
        super().load_build()
        if isinstance(self.stack[-1], JoblibArray):
            self.stack[-1] = self.stack[-1].read(self._source)

    dispatch[pickle.BUILD[0]] = load_build
