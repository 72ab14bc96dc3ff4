import argparse
import pickle
import sys
from collections import OrderedDict
from functools import partial
from types import ModuleType

import joblib
import numpy as np
import pytest
import torch
from garbage import Trap, refused
from safetensors.numpy import save
from sklearn.cluster import MiniBatchKMeans

from ser_personal.pretrain.codebook import Codebook
from ser_personal.pretrain.released import import_released, load_released_head

OTHERS = [
    (b"cbuiltins\neval\n.", "names builtins.eval"),
    (b"cbuiltins\ngetattr\n.", "names builtins.getattr"),
    (b"c_codecs\nencode\n}S'__doc__'\nS'changed'\nsb.", "state for function"),
    (b"", "can't be read"),
    (b"PK\x03\x04 half a zip", "can't be read"),
    (b"RIFF....WAVE", "can't be read"),
    (b"\x80\x04}.", "is neither"),
]
DUMPS = [joblib.dump, torch.save, partial(torch.save, _use_new_zipfile_serialization=False)]


class Dictionary:
    """As fairseq pickles it."""

    __module__, __qualname__ = "fairseq.data.dictionary", "Dictionary"

    def __init__(self, clusters):
        self.symbols = ["<s>", "<pad>", "</s>", "<unk>", *map(str, clusters)]


@pytest.fixture
def checkpoint(monkeypatch):
    """As fairseq saves HuBERT: label embeddings of four special tokens, then of 500 clusters."""
    for name in ("fairseq", "fairseq.data", "fairseq.data.dictionary"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    sys.modules["fairseq.data.dictionary"].Dictionary = Dictionary
    torch.manual_seed(0)
    model = OrderedDict({"final_proj.weight": torch.randn(6, 10), "final_proj.bias": torch.randn(6)})
    model["label_embs_concat"] = torch.nn.Parameter(torch.randn(504, 6))
    model._metadata = OrderedDict({"": {"version": 1}})
    cfg = argparse.Namespace(arch="hubert", task=argparse.Namespace(rate=np.float64(50.0)), weights=np.arange(3))
    task = {"dictionaries": [Dictionary(range(500))]}
    return {"cfg": cfg, "model": model, "optimizer_history": [{"n": 1}], "task_state": task, "types": set}


@pytest.fixture
def codebook(tmp_path):
    """That of the head, 500 clusters."""
    path = tmp_path / "its" / "codebook.safetensors"
    Codebook(np.random.default_rng(0).normal(size=(500, 2)).astype(np.float32)).save(path)
    return str(path)


@pytest.mark.parametrize("aligned", [True, False])
def test_sklearn_codebook_becomes_ours(tmp_path, monkeypatch, aligned):
    model = MiniBatchKMeans(3, random_state=np.random.RandomState(0))
    model.cluster_centers_ = np.asfortranarray(np.arange(12, dtype=np.float64).reshape(3, 4))
    if not aligned:
        # as joblib before 1.2 wrote arrays
        monkeypatch.setattr("joblib.numpy_pickle.NUMPY_ARRAY_ALIGNMENT_BYTES", None)
        monkeypatch.setattr("joblib.numpy_pickle.NumpyArrayWrapper.__init__.__defaults__", (False, None))
    joblib.dump(model, tmp_path / "km.bin")
    import_released(str(tmp_path / "km.bin"), str(tmp_path / "out" / "deeper"))
    refused("--codebook: is for a checkpoint", import_released, str(tmp_path / "km.bin"), str(tmp_path), "c")
    imported = Codebook.load(tmp_path / "out" / "deeper" / "codebook.safetensors")
    np.testing.assert_array_equal(imported.centroids, model.cluster_centers_.astype(np.float32))


@pytest.mark.parametrize(("zipped", "clusters"), [(True, range(500)), (False, range(499, -1, -1)), (True, None)])
def test_imported_head_scores_the_cluster_that_the_dictionary_names(tmp_path, checkpoint, codebook, zipped, clusters):
    checkpoint["task_state"] = {"dictionaries": [Dictionary(clusters)]} if clusters else {}
    checkpoint["model"]["final_proj.bias"] = checkpoint["model"]["final_proj.bias"].half()
    torch.save(checkpoint, tmp_path / "hubert.pt", _use_new_zipfile_serialization=zipped)
    import_released(str(tmp_path / "hubert.pt"), str(tmp_path), codebook)
    head, codebook_hash, order_known = load_released_head(tmp_path / "prediction_head.safetensors")
    assert (codebook_hash, order_known) == (Codebook.load(codebook).hash, clusters is not None)
    frames, (weight, bias, embeddings) = torch.randn(3, 10), checkpoint["model"].values()
    projected = frames @ weight.T + bias.float()
    expected = torch.cosine_similarity(projected[:, None], embeddings[None, 4:], dim=2) / 0.1
    torch.testing.assert_close(head(frames), expected[:, list(clusters or range(500))])


def test_a_head_that_does_not_fit_its_codebook_or_dictionary_is_refused(tmp_path, checkpoint, codebook):
    path, model = tmp_path / "hubert.pt", checkpoint["model"]
    imported = partial(import_released, str(path), str(tmp_path))
    torch.save(checkpoint, path)
    refused(r"which codebook its head was trained on\. Add --codebook released/codebook", imported)
    other = tmp_path / "mfcc.safetensors"
    Codebook(np.zeros((100, 39), dtype=np.float32)).save(other)
    refused(r"mfcc\.safetensors: has 100 clusters, the head 500", imported, str(other))
    for clusters in (range(1, 501), range(501), []):
        torch.save(checkpoint | {"task_state": {"dictionaries": [Dictionary(clusters)]}}, path)
        refused(f"dictionary of {len(clusters)} clusters doesn't fit its 504 label emb", imported, codebook)
    torch.save(checkpoint | {"model": model | {"label_embs_concat": torch.zeros(504, 3)}}, path)
    refused("several label sets", imported, codebook)
    torch.save(checkpoint | {"model": {}}, path)
    refused("is neither a k-means codebook nor a fairseq HuBERT checkpoint", imported, codebook)
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), path)
    refused(r"hubert\.pt: .*a TorchScript program", imported)


def test_what_is_no_released_head_is_refused(tmp_path):
    path = tmp_path / "head.safetensors"
    for content in (None, b"not safetensors", save({"codebook": np.zeros((3, 4))})):
        if content is not None:
            path.write_bytes(content)
        refused(r"head\.safetensors: not a prediction head .*\. `ser import", load_released_head, path)


@pytest.mark.parametrize("dump", [lambda value, path: path.write_bytes(pickle.dumps(value)), *DUMPS])
def test_a_malicious_file_is_refused_and_not_executed(tmp_path, dump):
    dump({"model": {"final_proj.bias": [1.0]}, "extra": Trap(tmp_path / "victim")}, tmp_path / "evil.pt")
    refused(r"names (posix|nt)\.mkdir", import_released, str(tmp_path / "evil.pt"), str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["evil.pt"]


def test_a_malicious_array_of_objects_is_not_executed(tmp_path):
    model = MiniBatchKMeans(3)
    model.cluster_centers_ = np.array([[Trap(tmp_path / "victim")]], dtype=object)
    joblib.dump(model, tmp_path / "evil.bin")
    refused("array of objects", import_released, str(tmp_path / "evil.bin"), str(tmp_path))
    assert not (tmp_path / "victim").exists()


@pytest.mark.parametrize(("content", "said"), OTHERS)
def test_other_files_are_refused(tmp_path, content, said):
    (tmp_path / "other.bin").write_bytes(content)
    refused(rf"other\.bin: .*{said}", import_released, str(tmp_path / "other.bin"), str(tmp_path))
