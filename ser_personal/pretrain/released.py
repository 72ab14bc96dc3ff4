"""`ser import`: what others released as pickles -> safetensors, once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import save_file

from ser_personal.errors import UserError
from ser_personal.pretrain.codebook import Codebook
from ser_personal.pretrain.unpickler import Inert, read_arrays

if TYPE_CHECKING:
    from torch import Tensor

SPECIAL_TOKENS = 4
EMBEDDINGS = "label_embs_concat"


def import_released(file: str, out: str) -> None:
    """Bring a released codebook or prediction head into safetensors.

    Of scikit-learn's k-means, dumped by joblib (`hubert_base_ls960_L9_km500.bin`), comes codebook.safetensors, for
    `ser kmeans --codebook`; of a fairseq HuBERT checkpoint prediction_head.safetensors, for PAPT. Of fairseq's 504
    label embeddings the first four belong to special tokens: cluster k is row k + 4.

    Args:
        file: the codebook or checkpoint; nothing in it is executed.
        out: folder to write to.

    Raises:
        UserError: the file is neither, or holds anything that isn't needed to rebuild arrays.
    """
    path, folder = Path(file), Path(out)
    content = read_arrays(path)
    if isinstance(content, Inert) and isinstance(content.state, dict) and "cluster_centers_" in content.state:
        target = folder / "codebook.safetensors"
        codebook = Codebook(_centroids(content.state["cluster_centers_"], path))
        codebook.save(target)
        print(f"{target}: {len(codebook.centroids)} clusters of {codebook.centroids.shape[1]} dimensions")
        return
    head = _head(content, path)
    target = folder / "prediction_head.safetensors"
    folder.mkdir(parents=True, exist_ok=True)
    save_file(head, target)
    clusters, final_dim = head["label_embeddings"].shape
    print(f"{target}: {clusters} clusters, final_dim {final_dim}, for frames of {head['final_proj.weight'].shape[1]}")


def _centroids(centres: Any, path: Path) -> np.ndarray[Any, np.dtype[np.float32]]:
    if not (isinstance(centres, np.ndarray) and centres.ndim == 2 and centres.dtype.kind == "f" and len(centres)):
        raise UserError("its cluster_centers_ are no (clusters, dim) array", where=path, remedy="Download it again")
    if not np.isfinite(centres).all():
        raise UserError("its cluster_centers_ hold NaN or infinity", where=path, remedy="Download it again")
    return np.ascontiguousarray(centres, dtype=np.float32)


def _head(content: Any, path: Path) -> dict[str, Tensor]:
    model = content.get("model") if isinstance(content, dict) else None
    wanted = ("final_proj.weight", "final_proj.bias", EMBEDDINGS)
    tensors = [model.get(name) if isinstance(model, dict) else None for name in wanted]
    weight, bias, embeddings = tensors
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
    return {
        "final_proj.weight": weight.detach().float().contiguous(),
        "final_proj.bias": bias.detach().float().contiguous(),
        "label_embeddings": embeddings.detach()[SPECIAL_TOKENS:].float().contiguous(),
    }
