import argparse
import os
import pickle
import sys
from collections import OrderedDict
from functools import partial
from types import ModuleType

import joblib
import numpy as np
import pytest
import torch
from garbage import refused
from safetensors.numpy import load_file, save
from sklearn.cluster import MiniBatchKMeans

from ser_personal.errors import UserError
from ser_personal.pretrain.codebook import Codebook
from ser_personal.pretrain.released import ReleasedHead, import_released


class Exploit:
    """Unpickled by pickle, makes a folder."""

    def __init__(self, victim) -> None:
        self.victim = victim

    def __reduce__(self):
        return (os.mkdir, (str(self.victim),))


@pytest.fixture
def head():
    torch.manual_seed(0)
    return {
        "final_proj.weight": torch.randn(6, 10),
        "final_proj.bias": torch.randn(6),
        "label_embs_concat": torch.nn.Parameter(torch.randn(504, 6)),
    }


@pytest.fixture
def codebook(tmp_path):
    """That of the head, 500 clusters."""
    path = tmp_path / "its" / "codebook.safetensors"
    Codebook(np.random.default_rng(0).normal(size=(500, 2)).astype(np.float32)).save(path)
    return str(path)


class Dictionary:
    """As fairseq pickles it."""

    __module__, __qualname__ = "fairseq.data.dictionary", "Dictionary"


def with_dictionary(checkpoint, symbols):
    dictionary = Dictionary()
    dictionary.symbols = ["<s>", "<pad>", "</s>", "<unk>", *map(str, symbols)]
    return {**checkpoint, "task_state": {"dictionaries": [dictionary]}}


def fairseq_checkpoint(head):
    model = OrderedDict({"encoder.layers.0.fc1.weight": torch.randn(4, 4), **head})
    model._metadata = OrderedDict({"": {"version": 1}})
    cfg = argparse.Namespace(arch="hubert", task=argparse.Namespace(rate=np.float64(50.0)), weights=np.arange(3))
    return {"args": argparse.Namespace(lr=[1e-4]), "cfg": cfg, "model": model, "optimizer_history": [{"n": 1}]}


def test_sklearn_codebook_becomes_ours(tmp_path, capsys):
    frames = np.random.default_rng(0).normal(size=(200, 7))
    model = MiniBatchKMeans(5, n_init=2, random_state=np.random.RandomState(0)).fit(frames)
    joblib.dump(model, tmp_path / "km5.bin")
    import_released(str(tmp_path / "km5.bin"), str(tmp_path / "out" / "deeper"))
    codebook = Codebook.load(tmp_path / "out" / "deeper" / "codebook.safetensors")
    np.testing.assert_array_equal(codebook.centroids, model.cluster_centers_.astype(np.float32))
    assert "5 clusters of 7 dimensions" in " ".join(capsys.readouterr().out.split())


def test_fortran_ordered_centres_of_an_older_joblib(tmp_path):
    # joblib before 1.2 wrote arrays without alignment
    centres = np.asfortranarray(np.arange(12, dtype=np.float32).reshape(3, 4))
    model = MiniBatchKMeans(3)
    model.cluster_centers_ = centres
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("joblib.numpy_pickle.NUMPY_ARRAY_ALIGNMENT_BYTES", None)
        patch.setattr("joblib.numpy_pickle.NumpyArrayWrapper.__init__.__defaults__", (False, None))
        joblib.dump(model, tmp_path / "old.bin")
    import_released(str(tmp_path / "old.bin"), str(tmp_path))
    np.testing.assert_array_equal(Codebook.load(tmp_path / "codebook.safetensors").centroids, centres)


@pytest.mark.parametrize("zipped", [True, False])
def test_fairseq_head_loses_its_special_tokens(tmp_path, head, codebook, zipped):
    path = tmp_path / "hubert.pt"
    head = {name: weight.detach().half() for name, weight in head.items()}
    torch.save({**fairseq_checkpoint(head), "types": set}, path, _use_new_zipfile_serialization=zipped)
    import_released(str(path), str(tmp_path), codebook)
    written = load_file(tmp_path / "prediction_head.safetensors")
    assert written["label_embeddings"].shape == (500, 6)
    assert {array.dtype for array in written.values()} == {np.dtype("f4")}
    np.testing.assert_array_equal(written["label_embeddings"][7], head["label_embs_concat"][11])
    np.testing.assert_array_equal(written["final_proj.weight"], head["final_proj.weight"])
    np.testing.assert_array_equal(written["final_proj.bias"], head["final_proj.bias"])


@pytest.fixture
def fairseq_pickles(monkeypatch):
    """Lets `Dictionary` be pickled, but not be found when it is read."""
    modules = {name: ModuleType(name) for name in ("fairseq", "fairseq.data", "fairseq.data.dictionary")}
    modules["fairseq.data.dictionary"].Dictionary = Dictionary
    with monkeypatch.context() as patch:
        for name, module in modules.items():
            patch.setitem(sys.modules, name, module)
        yield


@pytest.mark.usefixtures("fairseq_pickles")
@pytest.mark.parametrize("symbols", [None, range(500), range(499, -1, -1)], ids=["none", "in order", "in another"])
def test_imported_head_scores_the_cluster_that_the_dictionary_names(tmp_path, head, codebook, symbols):
    checkpoint = fairseq_checkpoint(head)
    torch.save(checkpoint if symbols is None else with_dictionary(checkpoint, symbols), tmp_path / "hubert.pt")
    import_released(str(tmp_path / "hubert.pt"), str(tmp_path), codebook)
    loaded, codebook_hash, order_known = ReleasedHead.load(tmp_path / "prediction_head.safetensors")
    assert (codebook_hash, order_known) == (Codebook.load(codebook).hash, symbols is not None)
    frames = torch.randn(3, 10)
    projected = frames @ head["final_proj.weight"].T + head["final_proj.bias"]
    expected = torch.cosine_similarity(projected[:, None], head["label_embs_concat"][None, 4:], dim=2) / 0.1
    torch.testing.assert_close(loaded(frames), expected.flip(1) if symbols == range(499, -1, -1) else expected)


@pytest.mark.usefixtures("fairseq_pickles")
def test_a_head_without_its_codebook_or_with_a_dictionary_of_other_clusters(tmp_path, head, codebook):
    path = tmp_path / "hubert.pt"
    torch.save(fairseq_checkpoint(head), path)
    imported = partial(import_released, str(path), str(tmp_path))
    refused(r"which codebook its head was trained on\. Add --codebook released/codebook", imported)
    other = tmp_path / "mfcc.safetensors"
    Codebook(np.zeros((100, 39), dtype=np.float32)).save(other)
    refused(r"mfcc\.safetensors: has 100 clusters, the head 500", imported, str(other))
    torch.save(with_dictionary(fairseq_checkpoint(head), range(1, 501)), path)
    refused(r"its dictionary lacks cluster 0\. Download it again", imported, codebook)
    torch.save(with_dictionary(fairseq_checkpoint(head), range(501)), path)
    refused(r"its clusters take 505 rows or more, and there are 504 label embeddings", imported, codebook)
    for rows, line in (
        (slice(4), "take 5 rows or more, and there are 4"),
        (slice(None), "its head holds NaN or infinity"),
    ):
        spoilt = head | {"label_embs_concat": head["label_embs_concat"][rows] / 0}
        torch.save(fairseq_checkpoint(spoilt), path)
        refused(line, imported, codebook)


def test_what_is_no_released_head_is_refused(tmp_path):
    path = tmp_path / "head.safetensors"
    line = r"head\.safetensors: not a prediction head .*\. `ser import"
    refused(line, ReleasedHead.load, path)
    for content in (b"not safetensors", save({"codebook": np.zeros((3, 4))})):
        path.write_bytes(content)
        refused(line, ReleasedHead.load, path)


@pytest.mark.parametrize(
    "dump",
    [
        lambda value, path: path.write_bytes(pickle.dumps(value)),
        joblib.dump,
        torch.save,
        lambda value, path: torch.save(value, path, _use_new_zipfile_serialization=False),
    ],
    ids=["pickle", "joblib", "torch zip", "torch legacy"],
)
def test_a_malicious_file_is_refused_and_not_executed(tmp_path, dump):
    dump({"model": {"final_proj.bias": [1.0]}, "extra": Exploit(tmp_path / "victim")}, tmp_path / "evil.pt")
    refused(r"names (posix|nt)\.mkdir", import_released, str(tmp_path / "evil.pt"), str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["evil.pt"]


def test_a_malicious_array_of_objects_is_not_executed(tmp_path):
    model = MiniBatchKMeans(3)
    model.cluster_centers_ = np.array([[Exploit(tmp_path / "victim")]], dtype=object)
    joblib.dump(model, tmp_path / "evil.bin")
    refused("array of objects", import_released, str(tmp_path / "evil.bin"), str(tmp_path))
    assert not (tmp_path / "victim").exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"cbuiltins\neval\n.", "names builtins.eval"),
        (b"cbuiltins\ngetattr\n.", "names builtins.getattr"),
        (b"c_codecs\nencode\n}S'__doc__'\nS'changed'\nsb.", "state for function"),
        (None, "no such file"),
        (b"", "can't be read"),
        (b"PK\x03\x04 half a zip", "can't be read"),
        (b"RIFF....WAVE", "can't be read"),
        (b"\x80\x04}.", "is neither"),
    ],
)
def test_other_files_are_refused_in_one_line(tmp_path, content, said):
    if content is not None:
        (tmp_path / "other.bin").write_bytes(content)
    with pytest.raises(UserError, match=rf"other\.bin: .*{said}") as caught:
        import_released(str(tmp_path / "other.bin"), str(tmp_path))
    assert "\n" not in str(caught.value)


def test_what_holds_no_head_or_several_is_refused(tmp_path, head):
    path = tmp_path / "other.pt"
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), path)
    refused(r"other\.pt: is a TorchScript program", import_released, str(path), str(tmp_path))
    torch.save(fairseq_checkpoint(head | {"label_embs_concat": torch.zeros(504, 3)}), path)
    refused("several label sets", import_released, str(path), str(tmp_path))
    del head["label_embs_concat"]
    torch.save(fairseq_checkpoint(head), path)
    line = "is neither a k-means codebook nor a fairseq HuBERT checkpoint"
    refused(line, import_released, str(path), str(tmp_path))
