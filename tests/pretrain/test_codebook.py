from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from ser_personal.errors import UserError
from ser_personal.pretrain.codebook import Codebook, nearest_centroid


def test_fit_finds_well_separated_clusters_again():
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(5, 3)) * 100
    frames = np.repeat(centres, 400, axis=0) + rng.normal(size=(2000, 3))
    codebook = Codebook.fit(frames.astype(np.float32), 5, iterations=20, restarts=3, seed=0)
    nearest = np.linalg.norm(centres[:, None] - codebook.centroids, axis=2)
    np.testing.assert_allclose(nearest.min(1), 0, atol=0.5)
    assert sorted(nearest.argmin(1).tolist()) == [0, 1, 2, 3, 4]


def test_fit_uses_every_frame():
    # faiss alone would draw 256 of these frames, and miss the mean
    frames = np.random.default_rng(0).normal(size=(5000, 2)).astype(np.float32)
    codebook = Codebook.fit(frames, 1, iterations=2, restarts=1, seed=0)
    np.testing.assert_allclose(codebook.centroids[0], frames.mean(0), atol=1e-5)


def test_fit_is_repeated_by_its_seed_and_changed_by_another():
    frames = np.random.default_rng(0).normal(size=(500, 4)).astype(np.float32)
    first, again, other = (Codebook.fit(frames, 16, 10, 1, seed) for seed in (0, 0, 1))
    assert first.hash == again.hash != other.hash


def test_more_clusters_than_frames_is_refused():
    with pytest.raises(UserError, match="num_clusters: 9 clusters for 8 sampled frames"):
        Codebook.fit(np.zeros((8, 2), dtype=np.float32), 9, 1, 1, 0)


def test_nearest_centroid_is_that_of_a_slow_search(monkeypatch):
    monkeypatch.setattr("ser_personal.pretrain.codebook.DISTANCES_AT_ONCE", 100)
    torch.manual_seed(0)
    frames, centroids = torch.randn(83, 6), torch.randn(11, 6)
    slow = [int(((centroids - frame) ** 2).sum(1).argmin()) for frame in frames]
    assert nearest_centroid(frames, centroids).tolist() == slow


def test_save_and_load_give_the_same_codebook(tmp_path):
    codebook = Codebook(np.random.default_rng(0).normal(size=(3, 2)).astype(np.float32), {"seed": 4, "teacher": "mfcc"})
    codebook.save(tmp_path / "codebook.safetensors")
    loaded = Codebook.load(tmp_path / "codebook.safetensors")
    assert loaded.hash == codebook.hash
    assert loaded.made_with == codebook.made_with
    assert [path.name for path in tmp_path.iterdir()] == ["codebook.safetensors"]


def test_hash_tells_shapes_and_values_apart():
    values = np.arange(6, dtype=np.float32)
    assert len({Codebook(values.reshape(shape)).hash for shape in [(2, 3), (3, 2), (1, 6)]}) == 3
    assert Codebook(values[None]).hash != Codebook(values[None] + 1).hash


@pytest.mark.parametrize("content", [None, b"rubbish", {"head": np.zeros((2, 2))}, {"codebook": np.zeros(4)}])
def test_what_is_no_codebook_is_refused(tmp_path, content):
    path = tmp_path / "codebook.safetensors"
    if isinstance(content, dict):
        save_file(content, path)
    elif content:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"codebook\.safetensors: (not a codebook|codebook isn't)"):
        Codebook.load(path)


def test_saving_gives_the_same_bytes_every_time(tmp_path):
    codebook = Codebook(np.ones((2, 3), dtype=np.float32), {"seed": 4, "teacher": "mfcc", "share": 0.1})
    paths = [tmp_path / f"{number}.safetensors" for number in range(20)]
    for path in paths:
        codebook.save(path)
    assert len({path.read_bytes() for path in paths}) == 1


def test_a_damaged_codebook_is_refused(tmp_path):
    path = tmp_path / "codebook.safetensors"
    Codebook(np.ones((2, 3), dtype=np.float32)).save(path)
    path.write_bytes(path.read_bytes()[:-1] + b"\x7f")
    with pytest.raises(UserError, match="doesn't match its own hash"):
        Codebook.load(path)


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_centroids_that_are_no_numbers(tmp_path, wrong):
    path = tmp_path / "codebook.safetensors"
    Codebook(np.array([[1.0, wrong]], dtype=np.float32)).save(path)
    with pytest.raises(UserError, match=r"codebook\.safetensors: codebook holds NaN or infinity"):
        Codebook.load(path)
