"""What the project's own commands leave for one another: banks, codebooks, pseudo-labels, bundles, profiles."""

import json
from pathlib import Path

import numpy as np
from fault import FIT, KMEANS, PAPT, TEST, Fault, Good, copied, cut, edited, faults, put, text
from safetensors import safe_open
from safetensors.numpy import save_file

CALIBRATE = ["calibrate", "{run}/predictions.csv", "--vectors", "{vectors}", "--out", "{here}/out.csv", "--bank"]
BANK = [*CALIBRATE, "{here}/bank.safetensors"]
CODEBOOK = [*KMEANS, "--codebook", "{here}/codebook.safetensors"]
LABELS = [*PAPT, "{here}/labels"]
ANNOTATE = ["annotate", "{corpus}/Audios", "--out", "{here}/out.csv", "--cut", "windows", "--model"]
BUNDLE = [*ANNOTATE, "{here}/bundle"]
PROFILES = [*ANNOTATE, "{bundle}", "--profiles", "{here}/profiles.safetensors"]


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


def profiles(arrays: dict[str, np.ndarray] | None = None, **metadata: str):
    def make(good: Good, here: Path) -> None:
        model = json.loads((good.bundle / "config.json").read_text())["model"]
        known = {"format": "ser_personal.speaker_profiles", "version": "4", "model": model}
        save_file(arrays or {}, here / "profiles.safetensors", known | metadata)

    return make


ONES = np.ones((4, 39))
COMMAND = {"class_path": "os.system", "init_args": {"command": "touch touched"}}
BERT, NEGATIVE = {"model_type": "bert"}, {"scale": -1}

OF_BANK = [
    ("no bank", "bank.safetensors: no speaker bank here"),
    ("half a bank", "bank.safetensors: not a speaker bank .*incomplete", copied("bank", "bank.safetensors", cut)),
    ("foreign safetensors as a bank", "not a speaker bank", bank(lambda _, metadata: metadata.clear())),
    ("a bank of the future", "not a speaker bank of format 2", bank(lambda _, metadata: metadata.update(version="9"))),
    ("a bank of NaN", "arrays that don't fit", bank(lambda arrays, _: arrays["vectors"].fill(np.nan))),
]
OF_CODEBOOK = [
    ("a codebook of NaN", "not a codebook .damaged", codebook(ONES * np.nan)),
    ("a codebook of another hash", "not a codebook .damaged", codebook(ONES, hash="0")),
    ("a codebook of the future", "not a codebook .of format 9, this version reads 2", codebook(ONES, format_version=9)),
    ("a codebook of another width", "4 clusters of 3 dimensions for frames of 39", codebook(ONES[:, :3])),
]
OF_LABELS = [
    ("pseudo-labels of the future", "not pseudo-labels of format 5", labels("meta.json", edited(format_version=9))),
    ("pseudo-labels with half a description", "are not pseudo-labels of format", labels("meta.json", cut)),
    ("pseudo-labels without a batch", r"\d+ of \d+ utterances are there", labels("batch-*", Path.unlink)),
]
OF_BUNDLE = [
    ("half a bundle's config", "config.json: can't be read", bundle("config.json", cut)),
    ("a bundle of the future", "bundle of format 99; this version reads format", config(format_version=99)),
    ("a config that is no bundle's", "isn't a bundle of ser_personal", config(format="other")),
    ("a bundle of an unknown calibration", "config.json: there is no 'mean'", config(calibration="mean")),
    ("a bundle of a foreign head", "isn't part of ser_pers", config(interpreter={"class_path": "antigravity.Head"})),
    ("a bundle without its bank", "bank.safetensors: isn't the file", bundle("speaker_bank.safetensors", Path.unlink)),
    ("a bundle that names no files", "lacks or misspells", config(files=3)),
    ("a bundle with half its weights", "model.safetensors: isn't the file", bundle("model.safetensors", cut)),
    ("a bundle with a command for a head", "os.system isn't a part of a network", config(interpreter=COMMAND)),
    ("a bundle of a text encoder", "lacks or misspells", config(personalized_encoder={"encoder_config": BERT})),
    ("a bundle of a negative prior", "LabelPrior.* out of range", config(label_priors={"pldc": {"arousal": NEGATIVE}})),
    ("a bundle of a negative k", "pldc.k: -3 is out of range", config(pldc={"k": -3})),
]
OF_PROFILES = [
    ("words as profiles", "not a complete file of speaker profiles", text("profiles.safetensors", "words")),
    ("profiles of another model", "of another model", profiles(model="x")),
    ("profiles of the future", "speaker_profiles of format 9", profiles(version="9")),
    ("profiles without sums", "damaged speaker profiles", profiles(speaker_ids='["a"]')),
]
IMPORT = ["import", "{here}/x.bin", "--out", "{here}/out"]
HUBERT = ["--model.encoder", "HubertEncoder", "--model.encoder.pretrained", "{here}/hubert"]
# what Git LFS leaves in the place of a file
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
NOT_PULLED = [
    ("a table", ["check", "{here}/corpus.csv"], text("corpus.csv", POINTER)),
    ("a config", [*KMEANS, "--config", "{here}/c.yaml"], text("c.yaml", POINTER)),
    ("a checkpoint", [*TEST, "--ckpt_path", "{here}/a.ckpt"], text("a.ckpt", POINTER)),
    ("a bank", BANK, text("bank.safetensors", POINTER)),
    ("a codebook", CODEBOOK, text("codebook.safetensors", POINTER)),
    ("pseudo-labels", [*PAPT, "{here}/pseudo_labels"], text("pseudo_labels/meta.json", POINTER)),
    ("a bundle's weights", BUNDLE, bundle("model.safetensors", put(POINTER))),
    ("profiles", PROFILES, text("profiles.safetensors", POINTER)),
    ("a codebook to import", IMPORT, text("x.bin", POINTER)),
    ("an encoder", [*FIT, *HUBERT], text("hubert/model.safetensors", POINTER)),
]
PULL = "`git lfs pull` brings"
ARTEFACTS = [Fault(f"{name} that Git LFS left", command, PULL, make) for name, command, make in NOT_PULLED]
ARTEFACTS += faults(BANK, OF_BANK) + faults(CODEBOOK, OF_CODEBOOK) + faults(LABELS, OF_LABELS)
ARTEFACTS += faults(BUNDLE, OF_BUNDLE) + faults(PROFILES, OF_PROFILES)
