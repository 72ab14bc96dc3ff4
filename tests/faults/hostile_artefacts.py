"""What the project's own commands leave for one another: banks, codebooks, pseudo-labels, bundles, profiles."""

import json
import pickle
from pathlib import Path

import numpy as np
import torch
from fault import FIT, KMEANS, PAPT, TEST, Fault, Good, copied, cut, edited, faults, put, text
from safetensors import safe_open
from safetensors.numpy import save_file
from transformers import HubertConfig

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


def config(**changes: object):
    return bundle("config.json", edited(**changes))


def source(**changes: object):
    def change(path: Path) -> None:
        meta = json.loads(path.read_text())
        path.write_text(json.dumps(meta | {"source": meta["source"] | changes}))

    return change


def profiles(arrays: dict[str, np.ndarray] | None = None, **metadata: str):
    def make(good: Good, here: Path) -> None:
        model = json.loads((good.bundle / "config.json").read_text())["model"]
        known = {"format": "ser_personal.speaker_profiles", "version": "4", "model": model}
        save_file(arrays or {}, here / "profiles.safetensors", known | metadata)

    return make


def pointer(name: str, of: str | None = None):
    """What Git LFS leaves in the place of a file, or of one inside a copy of something right."""
    note = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    if of is None:
        return text(name, note)
    return copied(of, of, lambda folder: [path.write_text(note) for path in folder.glob(name)])


def encoder(_good: Good, here: Path) -> None:
    """A clone from the hub, made without Git LFS."""
    here = here / "hubert"
    here.mkdir()
    HubertConfig(hidden_size=16, num_attention_heads=2, num_hidden_layers=1).save_pretrained(here)
    pointer("model.safetensors")(_good, here)


def pickled(path: Path) -> None:
    path.write_bytes(pickle.dumps(Touch()))


ONES = np.ones((4, 39))
COMMAND = {"class_path": "os.system", "init_args": {"command": "touch touched"}}
BERT, NEGATIVE = {"model_type": "bert"}, {"scale": -1}
HEAD = ["--model.released_head", "{here}/head.safetensors"]

OF_BANK = [
    ("no bank", "bank.safetensors: no speaker bank here"),
    ("half a bank", "bank.safetensors: not a complete safetensors file", copied("bank", "bank.safetensors", cut)),
    ("a header of 8 EB as a bank", "not a complete safetensors", text("bank.safetensors", b"\xff" * 7 + b"\x7f{}")),
    ("foreign safetensors as a bank", "but not a speaker bank", bank(lambda _, metadata: metadata.clear())),
    ("a bank of the future", "speaker bank of format 9", bank(lambda _, metadata: metadata.update(version="9"))),
    ("a bank without deviations", "damaged speaker bank", bank(lambda arrays, _: arrays.pop("label_std"))),
    ("a bank of broken names", "damaged speaker bank", bank(lambda _, metadata: metadata.update(speaker_ids="[1"))),
    ("a bank of NaN", "damaged speaker bank", bank(lambda arrays, _: arrays["vectors"].fill(np.nan))),
    ("a bank of words", "damaged speaker bank", bank(lambda arrays, _: arrays.update(vectors=arrays["vectors"][:2]))),
    ("a bank of a scale that is none", "damaged speaker bank", bank(lambda _, metadata: metadata.update(scale='"x"'))),
]
OF_CODEBOOK = [
    ("no codebook", "codebook.safetensors: not a codebook"),
    ("a codebook in a row", "damaged codebook", codebook(np.ones(4))),
    ("a codebook of NaN", "damaged codebook", codebook(ONES * np.nan)),
    ("a codebook of another hash", "damaged codebook", codebook(ONES, hash="0")),
    ("a codebook of the future", "codebook of format 9; this version reads format 2", codebook(ONES, format_version=9)),
    ("a codebook of another width", "4 clusters of 3 dimensions for frames of 39", codebook(ONES[:, :3])),
    ("a codebook that doesn't know its origin", "not a codebook", codebook(ONES, made_with="x")),
    ("a codebook without a cluster", "damaged codebook", codebook(ONES[:0])),
]
OF_LABELS = [
    ("pseudo-labels of the future", "not pseudo-labels of format 5", labels("meta.json", edited(format_version=9))),
    ("pseudo-labels of nobody", "doesn't say what made them", labels("meta.json", edited(source=None))),
    ("pseudo-labels with half a description", "meta.json: pseudo-labels are damaged", labels("meta.json", cut)),
    ("pseudo-labels at another rate", "100 frames a second", labels("meta.json", source(frame_rate=100))),
    ("pseudo-labels of no cluster", "is not a cluster id below 2", labels("meta.json", source(num_clusters=2))),
    ("pseudo-labels of many clusters", "don't fit two bytes", labels("meta.json", source(num_clusters=10**9))),
    ("pseudo-labels without a batch", r"\d+ of \d+ utterances are there", labels("batch-*", Path.unlink)),
]
OF_BUNDLE = [
    ("half a bundle's config", "config.json: isn't complete JSON", bundle("config.json", cut)),
    ("a bundle's config in a list", "config.json: isn't a JSON object", bundle("config.json", put("[]"))),
    ("a bundle of the future", "bundle of format 99; this version reads format", config(format_version=99)),
    ("a config that is no bundle's", "isn't a bundle of ser_personal", config(format="other")),
    ("a bundle of an unknown calibration", "config.json: there is no 'mean'", config(calibration="mean")),
    ("a bundle of a foreign head", "isn't part of ser_pers", config(interpreter={"class_path": "antigravity.Head"})),
    ("a bundle without its bank", "bank.safetensors: no such", bundle("speaker_bank.safetensors", Path.unlink)),
    ("a bundle that names no files", "lists no hashes of its files", config(files=3)),
    ("a bundle without weights", "model.safetensors: no such file", bundle("model.safetensors", Path.unlink)),
    ("a bundle with half its weights", "model.safetensors: isn't the file", bundle("model.safetensors", cut)),
    ("a bundle with weights in a pickle", "safetensors: isn't the file", bundle("model.safetensors", pickled)),
    ("a bundle with another's bank", "bank.safetensors: isn't the file", bundle("speaker_bank.safetensors", cut)),
    ("a bundle with a command for a head", "os.system isn't a part of a network", config(interpreter=COMMAND)),
    ("a bundle with a head of nothing", "config.json: lacks or misspells", config(interpreter={"class_path": 3})),
    ("a bundle of no encoder", "config.json: lacks", config(personalized_encoder=3)),
    ("a bundle of a text encoder", "lacks or misspells", config(personalized_encoder={"encoder_config": BERT})),
    ("a bundle of a negative prior", "LabelPrior.* out of range", config(label_priors={"pldc": {"arousal": NEGATIVE}})),
    ("a bundle of settings that aren't", "lacks or misspells .*kk", config(pldc={"kk": 3})),
    ("a bundle of a negative k", "pldc.k: -3 is out of range", config(pldc={"k": -3})),
]
OF_PROFILES = [
    ("words as profiles", "not a complete file of speaker profiles", text("profiles.safetensors", "words")),
    ("profiles of another model", "of another model", profiles(model="x")),
    ("profiles of the future", "speaker profiles of format 9", profiles(version="9")),
    ("profiles without sums", "damaged speaker profiles", profiles(speaker_ids='["a"]')),
]
IMPORT = ["import", "{here}/x.bin", "--out", "{here}/out"]
JOURNAL = text("out.csv.partial", "words")
NOT_PULLED = [
    ("a checkpoint", [*TEST, "--ckpt_path", "{here}/a.ckpt"], pointer("a.ckpt")),
    ("a bank", BANK, pointer("bank.safetensors")),
    ("vectors", [*CALIBRATE[:3], "{here}/v.npz", "--out", "{here}/out.csv", "--bank", "{bank}"], pointer("v.npz")),
    ("a codebook", CODEBOOK, pointer("codebook.safetensors")),
    ("pseudo-labels", [*PAPT, "{here}/pseudo_labels"], pointer("batch-*", "pseudo_labels")),
    ("a bundle's weights", BUNDLE, pointer("model.safetensors", "bundle")),
    ("a bundle's config", BUNDLE, pointer("config.json", "bundle")),
    ("profiles", PROFILES, pointer("profiles.safetensors")),
    ("a released codebook", IMPORT, pointer("x.bin")),
    ("a released head", [*PAPT, "{pseudo_labels}", *HEAD], pointer("head.safetensors")),
    ("an encoder", [*FIT, "--model.encoder", "HubertEncoder", "--model.encoder.pretrained", "{here}/hubert"], encoder),
]
ARTEFACTS = [
    *(
        Fault(f"{name} that Git LFS left", command, "pointer of Git LFS, whose content `git lfs pull` brings", make)
        for name, command, make in NOT_PULLED
    ),
    *faults(BANK, OF_BANK),
    *faults(CODEBOOK, OF_CODEBOOK),
    *faults(LABELS, OF_LABELS),
    *faults(BUNDLE, OF_BUNDLE),
    *faults(PROFILES, OF_PROFILES),
    Fault("words as a journal", [*ANNOTATE, "{bundle}"], r"partial: can't be resumed \(file is not a d", JOURNAL),
    Fault("a pickle to import", IMPORT, r"x\.bin: names", lambda _, here: torch.save(Touch(), here / "x.bin")),
]
