"""`ser import`: released pickles -> safetensors, once; and the released head as PAPT reads it."""

from __future__ import annotations

import pickle
import zipfile
from collections import OrderedDict
from math import prod
from pathlib import Path
from types import SimpleNamespace
from typing import IO, TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch._utils import _rebuild_parameter, _rebuild_tensor_v2

from ser_personal.errors import UserError
from ser_personal.files import atomic_write, refuse_existing
from ser_personal.pretrain.codebook import Codebook
from ser_personal.pretrain.masked_prediction import PredictionHead

if TYPE_CHECKING:
    from torch import Tensor

# Whose classes are kept as data and never imported.
# fmt: off
INERT_PACKAGES = frozenset({
    "argparse", "collections", "enum", "examples", "fairseq", "hydra", "numpy", "omegaconf", "pathlib", "sklearn",
    "torch", "typing",
})
INERT_BUILTINS = frozenset({
    "bool", "bytearray", "bytes", "complex", "dict", "float", "frozenset", "int", "list", "object", "set", "slice",
    "str", "tuple",
})
# fmt: on
TORCH_LEGACY_START = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
# Errors that damaged or foreign bytes raise when read as a pickle.
DAMAGE = (
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)


def read_arrays(path: Path) -> Any:
    """Read a torch checkpoint (zip or legacy) or a joblib dump: plain containers, arrays, tensors and `Inert`."""
    try:
        with path.open("rb") as file:
            start = file.read(len(TORCH_LEGACY_START))
            file.seek(0)
            if start.startswith(b"PK"):
                return _read_torch_zip(path)
            if start == TORCH_LEGACY_START:
                return _torch_load(path, mmap=False)
            return RestrictedUnpickler(file).load()
    except FileNotFoundError as error:
        raise UserError("no such file", where=path, remedy="Give a released checkpoint or codebook") from error
    except UserError as error:
        # a file within torch's archive has no name
        raise UserError(error.what, where=path, remedy=error.remedy) from error
    except DAMAGE as error:
        what = f"can't be read as a torch checkpoint or a joblib dump ({type(error).__name__}: {error})"
        raise UserError(
            what, where=path, remedy="Download it again; a compressed dump must be unpacked first"
        ) from error


def _read_torch_zip(path: Path) -> Any:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    if any(name.endswith("/constants.pkl") for name in names):
        raise UserError("is a TorchScript program", where=path, remedy="Give the checkpoint that it was made from")
    return _torch_load(path, mmap=True)


def _torch_load(path: Path, *, mmap: bool) -> Any:
    ours = SimpleNamespace(
        __name__="restricted",
        Unpickler=RestrictedUnpickler,
        load=lambda file, **options: RestrictedUnpickler(file, **options).load(),
    )
    # weights_only would refuse the configurations in these files; our unpickler makes them inert instead.
    return torch.load(path, "cpu", pickle_module=ours, weights_only=False, mmap=mmap)


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
    "numpy._core.multiarray._reconstruct": _empty_array,
    "numpy._core.multiarray.scalar": _scalar,
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
        # torch.save writes a protocol that names builtins as Python 2 did
        module = "builtins" if module == "__builtin__" else module
        full = f"{module}.{name}"
        if full in ALLOWED:
            return ALLOWED[full]
        if module.partition(".")[0] in INERT_PACKAGES or (module == "builtins" and name in INERT_BUILTINS):
            return Inert
        raise UserError(
            f"names {full}, which no released checkpoint or codebook needs",
            where=getattr(self._source, "name", None),
            remedy="Don't load it with anything else either, unless you trust where it comes from",
        )

    def load_build(self) -> None:
        """Restore the state of an object, and fetch the array that a joblib dump announces."""
        if not isinstance(self.stack[-2], (Inert, np.ndarray, np.dtype, OrderedDict)):
            raise pickle.UnpicklingError(f"state for {type(self.stack[-2]).__name__}")
        super().load_build()
        if isinstance(self.stack[-1], JoblibArray):
            self.stack[-1] = self.stack[-1].read(self._source)

    dispatch[pickle.BUILD[0]] = load_build


SPECIAL_TOKENS = 4
HEAD = ("final_proj.weight", "final_proj.bias", "label_embs_concat")


class ReleasedHead(NamedTuple):
    """A released prediction head, the hash of the codebook whose clusters it scores, and whether their order is known.

    It is where the checkpoint held fairseq's dictionary; else cluster k is taken to be row k + 4.
    """

    head: PredictionHead
    codebook_hash: str
    order_known: bool

    @classmethod
    def load(cls, path: str | Path) -> ReleasedHead:
        """Read a file of `ser import`."""
        try:
            with safe_open(path, framework="pt") as file:
                weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
                metadata = file.metadata() or {}
            head = PredictionHead(weights["final_proj.weight"].shape[1], *weights["label_embeddings"].shape)
            head.load_state_dict(weights)
            return cls(head, metadata["codebook_hash"], metadata["order"] == "known")
        except (OSError, SafetensorError, KeyError, IndexError, TypeError, RuntimeError) as error:
            raise UserError(
                "not a prediction head with the hash of its codebook",
                where=path,
                remedy="`ser import hubert_large_ll60k.pt --codebook released/codebook.safetensors --out released`"
                " writes one; --model.released_head null makes a fresh one",
            ) from error


def import_released(file: str, out: str, codebook: str | None = None, *, replace: bool = False) -> None:
    """Convert a released codebook or prediction head to safetensors.

    scikit-learn's k-means, dumped by joblib (`hubert_base_ls960_L9_km500.bin`), becomes codebook.safetensors, for
    `ser kmeans --codebook`; a fairseq HuBERT checkpoint prediction_head.safetensors, for PAPT. Which label embedding
    belongs to which cluster is read from the dictionary in the checkpoint. Where there is none, the first four belong
    to special tokens, and cluster k is row k + 4.

    Args:
        file: the codebook or checkpoint; nothing in it is executed.
        out: folder to write to.
        codebook: codebook.safetensors whose clusters a checkpoint was trained on, needed for one.
        replace: replace a file that exists already.

    Raises:
        UserError: the file to write exists; the file to read is neither, or holds anything but what rebuilds arrays; a
            checkpoint comes without its codebook, or with one of another size.
    """
    path, folder = Path(file), Path(out)
    content = read_arrays(path)
    if isinstance(content, Inert) and isinstance(content.state, dict) and "cluster_centers_" in content.state:
        target = folder / "codebook.safetensors"
        refuse_existing(target, replace=replace)
        imported = Codebook(_centroids(content.state["cluster_centers_"], path))
        imported.save(target)
        print(f"{target}: {len(imported.centroids)} clusters of {imported.centroids.shape[1]} dimensions")
        return
    head, order = _head(content, path)
    if codebook is None:
        raise UserError(
            "doesn't say which codebook its head was trained on",
            where=path,
            remedy="Add --codebook released/codebook.safetensors, imported from the k-means of its release",
        )
    of_head = Codebook.load(codebook)
    clusters, final_dim = head["label_embeddings"].shape
    if len(of_head.centroids) != clusters:
        raise UserError(
            f"has {len(of_head.centroids)} clusters, the head {clusters}",
            where=codebook,
            remedy="Give the codebook that the checkpoint was trained on",
        )
    target = folder / "prediction_head.safetensors"
    refuse_existing(target, replace=replace)
    metadata = {"codebook_hash": of_head.hash, "order": order}
    atomic_write(target, save(head, metadata))
    print(
        f"{target}: {clusters} clusters, their order {order}, final_dim {final_dim}, for frames of "
        f"{head['final_proj.weight'].shape[1]}"
    )


def _centroids(centres: Any, path: Path) -> np.ndarray[Any, np.dtype[np.float32]]:
    if not (isinstance(centres, np.ndarray) and centres.ndim == 2 and centres.dtype.kind == "f" and len(centres)):
        raise UserError("its cluster_centers_ aren't an array (clusters, dim)", where=path, remedy="Download it again")
    if not np.isfinite(centres).all():
        raise UserError("its cluster_centers_ hold NaN or infinity", where=path, remedy="Download it again")
    return np.ascontiguousarray(centres, dtype=np.float32)


def _head(content: Any, path: Path) -> tuple[dict[str, Tensor], str]:
    model = content.get("model") if isinstance(content, dict) else None
    weight, bias, embeddings = (model.get(name) if isinstance(model, dict) else None for name in HEAD)
    if not (
        isinstance(weight, torch.Tensor) and isinstance(bias, torch.Tensor) and isinstance(embeddings, torch.Tensor)
    ):
        raise UserError(
            "is neither a k-means codebook nor a fairseq HuBERT checkpoint with its prediction head",
            where=path,
            remedy="Give a pre-trained model, not a fine-tuned one, which has no head any more",
        )
    if weight.ndim != 2 or len(weight) != len(bias) or embeddings.ndim != 2 or embeddings.shape[1] != len(weight):
        what = f"its head has several label sets: {len(weight)} projections, {tuple(embeddings.shape)} label embeddings"
        raise UserError(what, where=path, remedy="Give a checkpoint that was trained on one set of clusters")
    rows = _rows_of_clusters(content)
    if rows and (missing := sorted({*range(len(rows))} - rows.keys()) or max(rows.values()) >= len(embeddings)):
        what = f"its dictionary doesn't fit its {len(embeddings)} label embeddings (clusters without a row: {missing})"
        raise UserError(what, where=path, remedy="Download it again, or give the checkpoint as it was released")
    order = torch.tensor([rows[cluster] for cluster in range(len(rows))] or range(SPECIAL_TOKENS, len(embeddings)))
    head = {
        "final_proj.weight": weight.detach().float().contiguous(),
        "final_proj.bias": bias.detach().float().contiguous(),
        "label_embeddings": embeddings.detach()[order].float().contiguous(),
    }
    return head, "known" if rows else "assumed"


def _rows_of_clusters(content: Any) -> dict[int, int]:
    """Cluster -> its label embedding, by fairseq's dictionary; empty where the checkpoint has none."""
    task = content.get("task_state")
    for dictionary in (task.get("dictionaries") if isinstance(task, dict) else None) or ():
        state = dictionary.state if isinstance(dictionary, Inert) else None
        symbols = state.get("symbols") if isinstance(state, dict) else None
        if isinstance(symbols, list):
            return {int(symbol): row for row, symbol in enumerate(symbols) if str(symbol).isdecimal()}
    return {}
