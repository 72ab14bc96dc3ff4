"""The released prediction head, as PAPT reads it, and `ser import`, which turns released pickles into safetensors."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from ser_personal.errors import UserError
from ser_personal.files import atomic_write, refuse_existing
from ser_personal.pretrain.codebook import Codebook
from ser_personal.pretrain.masked_prediction import PredictionHead
from ser_personal.pretrain.restricted_pickle import Inert, read_arrays

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor

SPECIAL_TOKENS = 4
HEAD = ("final_proj.weight", "final_proj.bias", "label_embs_concat")


class ReleasedHead(NamedTuple):
    """A released prediction head, the hash of the codebook whose clusters it scores, and whether their order is known.

    The order is known if the checkpoint contained fairseq's dictionary; otherwise cluster k is assumed to be row k + 4,
    after fairseq's four special tokens.
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
            if not _are_finite(weights.values()):
                raise ValueError("weights that aren't finite")
            return cls(head, metadata["codebook_hash"], metadata["order"] == "known")
        except (OSError, SafetensorError, KeyError, IndexError, TypeError, ValueError, RuntimeError) as error:
            raise UserError(
                "not a prediction head with the hash of its codebook",
                where=path,
                remedy="`ser import hubert_large_ll60k.pt --codebook released/codebook.safetensors --out released`"
                " writes one; --model.released_head null makes a fresh one",
            ) from error


def import_released(file: str, out: str, codebook: str | None = None, *, replace: bool = False) -> None:
    """Convert a released codebook or prediction head to safetensors.

    scikit-learn's k-means, dumped by joblib (`hubert_base_ls960_L9_km500.bin`), becomes codebook.safetensors, for
    `ser kmeans --codebook`; a fairseq HuBERT checkpoint becomes prediction_head.safetensors, for PAPT. Which label
    embedding belongs to which cluster is read from the dictionary in the checkpoint. Where there is none, the first
    four belong to special tokens, and cluster k is row k + 4.

    Args:
        file: the codebook or checkpoint; nothing in it is executed.
        out: folder to write to.
        codebook: codebook.safetensors whose clusters a checkpoint was trained on; required for a checkpoint.
        replace: replace a file that exists already.
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
    is_array = isinstance(centres, np.ndarray) and centres.ndim == 2 and centres.dtype.kind == "f" and len(centres)
    if not (is_array and np.isfinite(centres).all()):
        what = "its cluster_centers_ aren't a finite array (clusters, dim)"
        raise UserError(what, where=path, remedy="Download it again")
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
    missing, needed = sorted(set(range(len(rows))) - rows.keys()), max(rows.values(), default=SPECIAL_TOKENS) + 1
    wrong = None
    if missing:
        wrong = f"its dictionary lacks cluster {missing[0]}"
    elif needed > len(embeddings):
        wrong = f"its clusters take {needed} rows or more, and there are {len(embeddings)} label embeddings"
    elif not _are_finite((weight, bias, embeddings)):
        wrong = "its head holds NaN or infinity"
    if wrong is not None:
        raise UserError(wrong, where=path, remedy="Download it again, or give the checkpoint as it was released")
    order = torch.tensor([rows[cluster] for cluster in range(len(rows))] or range(SPECIAL_TOKENS, len(embeddings)))
    head = {
        "final_proj.weight": weight.detach().float().contiguous(),
        "final_proj.bias": bias.detach().float().contiguous(),
        "label_embeddings": embeddings.detach()[order].float().contiguous(),
    }
    return head, "known" if rows else "assumed"


def _are_finite(weights: Iterable[Tensor]) -> bool:
    return all(bool(torch.isfinite(weight).all()) for weight in weights)


def _rows_of_clusters(content: Any) -> dict[int, int]:
    """Cluster -> its label embedding, by fairseq's dictionary; empty where the checkpoint has none."""
    task = content.get("task_state")
    for dictionary in (task.get("dictionaries") if isinstance(task, dict) else None) or ():
        state = dictionary.state if isinstance(dictionary, Inert) else None
        symbols = state.get("symbols") if isinstance(state, dict) else None
        if isinstance(symbols, list):
            return {int(symbol): row for row, symbol in enumerate(symbols) if str(symbol).isdecimal()}
    return {}
