"""The released prediction head, as PAPT reads it, and `ser import`, which turns released pickles into safetensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ser_personal.errors import UserError
from ser_personal.files import atomic_write, refuse_existing
from ser_personal.pretrain.codebook import Codebook
from ser_personal.pretrain.masked_prediction import PredictionHead
from ser_personal.pretrain.restricted_pickle import Inert, read_arrays

HEAD = ("final_proj.weight", "final_proj.bias", "label_embs_concat")
SPECIAL_TOKENS = ("<s>", "<pad>", "</s>", "<unk>")


def load_released_head(path: str | Path) -> tuple[PredictionHead, str, bool]:
    """Read a file of `ser import`: the head, the hash of the codebook it scores, and whether its order is known."""
    try:
        with safe_open(path, framework="pt") as file:
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
            metadata = file.metadata() or {}
        head = PredictionHead(weights["final_proj.weight"].shape[1], *weights["label_embeddings"].shape)
        head.load_state_dict(weights)
        if not all(bool(weight.isfinite().all()) for weight in weights.values()):
            raise ValueError("weights that aren't finite")
        return head, metadata["codebook_hash"], metadata["order"] == "known"
    except (OSError, SafetensorError, KeyError, IndexError, TypeError, ValueError, RuntimeError) as error:
        remedy = "`ser import hubert_large_ll60k.pt --codebook released/codebook.safetensors --out released`"
        remedy += " writes one; --model.released_head null makes a fresh one"
        raise UserError("not a prediction head with the hash of its codebook", where=path, remedy=remedy) from error


def import_released(file: str, out: str, codebook: str | None = None, *, replace: bool = False) -> None:
    """Convert a released codebook or prediction head to safetensors, as `ser import` does.

    Which label embedding belongs to which cluster is read from the dictionary in the checkpoint. Where there is none,
    cluster k is assumed to be row k + 4, after fairseq's special tokens.

    Args:
        file: the codebook or checkpoint; nothing in it is executed.
        out: folder to write to.
        codebook: codebook.safetensors whose clusters a checkpoint was trained on; needed for one, and refused else.
        replace: replace a file that exists already.
    """
    path, folder = Path(file), Path(out)
    content = read_arrays(path)
    if isinstance(content, Inert) and isinstance(content.state, dict) and "cluster_centers_" in content.state:
        if codebook is not None:
            raise UserError(f"is for a checkpoint, and {path} is a codebook", where="--codebook", remedy="Leave it out")
        centres = content.state["cluster_centers_"]
        is_matrix = isinstance(centres, np.ndarray) and centres.ndim == 2 and centres.dtype.kind == "f"
        if not (is_matrix and np.isfinite(centres).all()):
            what = "its cluster_centers_ aren't a finite array (clusters, dim)"
            raise UserError(what, where=path, remedy="Download it again")
        target = folder / "codebook.safetensors"
        refuse_existing(target, replace=replace)
        Codebook(np.ascontiguousarray(centres, dtype=np.float32)).save(target)
        print(f"{target}: {len(centres)} clusters of {centres.shape[1]} dimensions")
        return
    head, order = _head(content, path)
    if codebook is None:
        remedy = "Add --codebook released/codebook.safetensors, imported from the k-means of its release"
        raise UserError("doesn't say which codebook its head was trained on", where=path, remedy=remedy)
    of_head = Codebook.load(codebook)
    clusters, final_dim = head["label_embeddings"].shape
    if len(of_head.centroids) != clusters:
        what = f"has {len(of_head.centroids)} clusters, the head {clusters}"
        raise UserError(what, where=codebook, remedy="Give the codebook that the checkpoint was trained on")
    target = folder / "prediction_head.safetensors"
    refuse_existing(target, replace=replace)
    atomic_write(target, save(head, {"codebook_hash": of_head.hash, "order": order}))
    width = head["final_proj.weight"].shape[1]
    print(f"{target}: {clusters} clusters, their order {order}, final_dim {final_dim}, for frames of {width}")


def _head(content: Any, path: Path) -> tuple[dict[str, Tensor], str]:
    try:
        weight, bias, embeddings = (content["model"][name].detach().float() for name in HEAD)
        dictionaries = (content.get("task_state") or {}).get("dictionaries")
        assumed = [*SPECIAL_TOKENS, *range(len(embeddings) - len(SPECIAL_TOKENS))]
        symbols = dictionaries[0].state["symbols"] if dictionaries else assumed
        rows = {int(symbol): row for row, symbol in enumerate(symbols) if str(symbol).isdecimal()}
    except (AttributeError, LookupError, TypeError) as error:
        what = "is neither a k-means codebook nor a fairseq HuBERT checkpoint with its prediction head"
        remedy = "Give a pre-trained model, not a fine-tuned one, which has no head any more"
        raise UserError(what, where=path, remedy=remedy) from error
    if weight.ndim != 2 or len(weight) != len(bias) or embeddings.ndim != 2 or embeddings.shape[1] != len(weight):
        what = f"its head has several label sets: {len(weight)} projections, {tuple(embeddings.shape)} label embeddings"
        raise UserError(what, where=path, remedy="Give a checkpoint that was trained on one set of clusters")
    if not rows or sorted(rows) != [*range(len(rows))] or max(rows.values()) >= len(embeddings):
        what = f"its dictionary of {len(rows)} clusters doesn't fit its {len(embeddings)} label embeddings"
        raise UserError(what, where=path, remedy="Download it again, or give the checkpoint as it was released")
    in_order = embeddings[[rows[cluster] for cluster in range(len(rows))]]
    head = {"final_proj.weight": weight.contiguous(), "final_proj.bias": bias, "label_embeddings": in_order}
    return head, "known" if dictionaries else "assumed"
