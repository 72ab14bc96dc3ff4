"""What the project's own commands leave for one another: banks, codebooks, pseudo-labels, bundles, profiles."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import torch
from fault import KMEANS, PAPT, Fault, Good, copied, cut, edited, text
from safetensors import safe_open
from safetensors.numpy import save_file

CALIBRATE = ["calibrate", "{run}/predictions.csv", "--vectors", "{vectors}", "--out", "{here}/out.csv", "--bank"]
BANK = [*CALIBRATE, "{here}/bank.safetensors"]
CODEBOOK = [*KMEANS, "--codebook", "{here}/codebook.safetensors"]
LABELS = [*PAPT, "{here}/labels"]
ANNOTATE = ["annotate", "{corpus}/Audios", "--out", "{here}/out.csv", "--cut", "windows", "--model"]
BUNDLE = [*ANNOTATE, "{here}/bundle"]
PROFILES = [*ANNOTATE, "{bundle}", "--profiles", "{here}/profiles.safetensors"]


class Touch:
    """Unpickling it makes a file."""

    def __reduce__(self):
        return Path.touch, (Path("touched"),)


def bank(change):
    """A bank whose arrays and metadata `change` changes in place."""

    def make(good: Good, here: Path) -> None:
        with safe_open(good.bank, framework="numpy") as file:
            metadata = dict(file.metadata())
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        change(arrays, metadata)
        save_file(arrays, here / "bank.safetensors", metadata)

    return make


def codebook(centroids: np.ndarray, **provenance: object):
    def make(_good: Good, here: Path) -> None:
        metadata = {"provenance": json.dumps(provenance)} if provenance else None
        save_file({"codebook": centroids.astype(np.float32)}, here / "codebook.safetensors", metadata)

    return make


def labels(name: str, change):
    return copied("pseudo_labels", "labels", lambda folder: change(next(folder.glob(name))))


def bundle(name: str, change):
    return copied("bundle", "bundle", lambda folder: change(folder / name))


def source(**changes: object):
    def change(path: Path) -> None:
        meta = json.loads(path.read_text())
        path.write_text(json.dumps(meta | {"source": meta["source"] | changes}))

    return change


def profiles(arrays: dict[str, np.ndarray] | None = None, **metadata: str):
    def make(good: Good, here: Path) -> None:
        model = json.loads((good.bundle / "config.json").read_text())["model"]
        known = {"format": "ser_personal.speaker_profiles", "version": "2", "model": model}
        save_file(arrays or {}, here / "profiles.safetensors", known | metadata)

    return make


ONES = np.ones((4, 39))

ARTEFACTS = [
    Fault("no bank", BANK, "bank.safetensors: no speaker bank here"),
    Fault(
        "half a bank", BANK, "bank.safetensors: not a whole safetensors file", copied("bank", "bank.safetensors", cut)
    ),
    Fault("words as a bank", BANK, "not a whole safetensors file", text("bank.safetensors", "words")),
    Fault(
        "a header of 8 EB as a bank",
        BANK,
        "not a whole safetensors file",
        text("bank.safetensors", b"\xff" * 7 + b"\x7f{}"),
    ),
    Fault(
        "foreign safetensors as a bank",
        BANK,
        "safetensors, but not a speaker bank",
        lambda _good, here: save_file({"a": np.ones(1)}, here / "bank.safetensors"),
    ),
    Fault(
        "a bank of the future", BANK, "speaker bank of format 9", bank(lambda _, metadata: metadata.update(version="9"))
    ),
    Fault(
        "a bank without deviations", BANK, "incomplete speaker bank", bank(lambda arrays, _: arrays.pop("label_std"))
    ),
    Fault(
        "a bank of broken names",
        BANK,
        "damaged speaker bank",
        bank(lambda _, metadata: metadata.update(speaker_ids="[1")),
    ),
    Fault("a bank of NaN", BANK, "damaged speaker bank", bank(lambda arrays, _: arrays["vectors"].fill(np.nan))),
    Fault(
        "a bank of words",
        BANK,
        "damaged speaker bank",
        bank(lambda arrays, _: arrays.update(vectors=arrays["vectors"][:2])),
    ),
    Fault(
        "a bank of a scale that is none",
        BANK,
        "damaged speaker bank",
        bank(lambda _, metadata: metadata.update(scale='"x"')),
    ),
    Fault("no codebook", CODEBOOK, "codebook.safetensors: not a codebook"),
    Fault("words as a codebook", CODEBOOK, "not a codebook", text("codebook.safetensors", "words")),
    Fault("a codebook in a row", CODEBOOK, r"isn't \(clusters, dim\)", codebook(np.ones(4))),
    Fault("a codebook of NaN", CODEBOOK, "NaN or infinity", codebook(ONES * np.nan)),
    Fault("a codebook of another hash", CODEBOOK, "doesn't match its own hash", codebook(ONES, hash="0")),
    Fault(
        "a codebook of the future",
        CODEBOOK,
        "codebook of format 9; this version reads format 2",
        codebook(ONES, format_version=9),
    ),
    Fault(
        "a codebook of another width", CODEBOOK, "4 clusters of 3 dimensions for frames of 39", codebook(ONES[:, :3])
    ),
    Fault(
        "a codebook that doesn't know its origin", CODEBOOK, "doesn't say what made it", codebook(ONES, made_with="x")
    ),
    Fault("a codebook without a cluster", CODEBOOK, r"isn't \(clusters, dim\)", codebook(ONES[:0])),
    Fault(
        "pseudo-labels of the future",
        LABELS,
        "labels: these are not pseudo-labels of format 2",
        labels("meta.json", edited(format_version=9)),
    ),
    Fault("pseudo-labels of nobody", LABELS, "doesn't say what made them", labels("meta.json", edited(source=None))),
    Fault(
        "pseudo-labels with half a description",
        LABELS,
        "meta.json: pseudo-labels are damaged",
        labels("meta.json", cut),
    ),
    Fault("half the pseudo-labels", LABELS, r"batch-\w+\.safetensors: .* are damaged", labels("batch-*", cut)),
    Fault(
        "pseudo-labels that aren't finished", LABELS, "only half written", labels("meta.json", edited(finished=False))
    ),
    Fault("pseudo-labels at another rate", LABELS, "100 frames a second", labels("meta.json", source(frame_rate=100))),
    Fault("pseudo-labels of no cluster", LABELS, "is no cluster", labels("meta.json", source(num_clusters=2))),
    Fault(
        "pseudo-labels of too many clusters",
        LABELS,
        "clusters don't fit two bytes",
        labels("meta.json", source(num_clusters=10**9)),
    ),
    Fault("pseudo-labels without a batch", LABELS, r"\d+ of \d+ utterances are there", labels("batch-*", Path.unlink)),
    Fault("half a bundle's config", BUNDLE, "config.json: isn't complete JSON", bundle("config.json", cut)),
    Fault(
        "a bundle's config in a list",
        BUNDLE,
        "config.json: isn't a JSON object",
        bundle("config.json", lambda path: path.write_text("[]")),
    ),
    Fault(
        "a bundle of the future",
        BUNDLE,
        "bundle of format 99; this version reads format",
        bundle("config.json", edited(format_version=99)),
    ),
    Fault(
        "a bundle of no version",
        BUNDLE,
        "bundle of format x; this version reads format",
        bundle("config.json", edited(format_version="x")),
    ),
    Fault(
        "a bundle that names no files",
        BUNDLE,
        "doesn't say what its files hold",
        bundle("config.json", edited(files=3)),
    ),
    Fault(
        "a bundle without weights",
        BUNDLE,
        "model.safetensors: can't be loaded",
        bundle("model.safetensors", Path.unlink),
    ),
    Fault(
        "a bundle with half its weights", BUNDLE, "model.safetensors: isn't the file", bundle("model.safetensors", cut)
    ),
    Fault(
        "a bundle with weights in a pickle",
        BUNDLE,
        "model.safetensors: isn't the file",
        bundle("model.safetensors", lambda path: path.write_bytes(pickle.dumps(Touch()))),
    ),
    Fault(
        "a bundle with another's bank",
        BUNDLE,
        "speaker_bank.safetensors: isn't the file",
        bundle("speaker_bank.safetensors", cut),
    ),
    Fault(
        "a bundle with a command for a head",
        BUNDLE,
        "os.system isn't a class",
        bundle(
            "config.json", edited(interpreter={"class_path": "os.system", "init_args": {"command": "touch touched"}})
        ),
    ),
    Fault(
        "a bundle with a head of nothing",
        BUNDLE,
        "config.json: lacks or misspells",
        bundle("config.json", edited(interpreter={"class_path": 3})),
    ),
    Fault(
        "a bundle of no encoder", BUNDLE, "config.json: lacks", bundle("config.json", edited(personalized_encoder=3))
    ),
    Fault(
        "a bundle of a text encoder",
        BUNDLE,
        "config.json: lacks or misspells",
        bundle("config.json", edited(personalized_encoder={"encoder_config": {"model_type": "bert"}})),
    ),
    Fault(
        "a bundle of settings that aren't",
        BUNDLE,
        "lacks or misspells .*kk",
        bundle("config.json", edited(pldc={"kk": 3})),
    ),
    Fault("a bundle of a negative k", BUNDLE, "k is -3", bundle("config.json", edited(pldc={"k": -3}))),
    Fault(
        "words as profiles", PROFILES, "not a complete file of speaker profiles", text("profiles.safetensors", "words")
    ),
    Fault("profiles of another model", PROFILES, "of another model", profiles(model="x")),
    Fault("profiles of the future", PROFILES, "speaker profiles of format 9", profiles(version="9")),
    Fault("profiles of a version in words", PROFILES, "speaker profiles of format new", profiles(version="new")),
    Fault("profiles of nobody", PROFILES, "damaged speaker profiles", profiles()),
    Fault(
        "profiles without sums",
        PROFILES,
        "damaged speaker profiles",
        profiles(speaker_ids='["a"]'),
    ),
    Fault(
        "words as an interrupted annotation",
        [*ANNOTATE, "{bundle}"],
        r"out.csv.partial: can't be resumed \(file is not a database\)",
        text("out.csv.partial", "words"),
    ),
    Fault(
        "a pickle to import",
        ["import", "{here}/x.bin", "--out", "{here}/out"],
        r"x\.bin",
        lambda _good, here: (here / "x.bin").write_bytes(pickle.dumps(Touch())),
    ),
    Fault(
        "a torch pickle to import",
        ["import", "{here}/x.pt", "--out", "{here}/out"],
        r"x\.pt",
        lambda _good, here: torch.save({"model": Touch()}, here / "x.pt"),
    ),
]
