"""Tiny models of the forms in which public emotion models are published, and what they predict, computed apart."""

from __future__ import annotations

import json
import pickle
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch.nn import functional
from transformers import Wav2Vec2Config, Wav2Vec2Model, WavLMConfig, WavLMModel

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

DIM, HIDDEN = 16, 12
SIZES: dict[str, Any] = {
    "hidden_size": DIM,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "conv_dim": [8] * 7,
    "conv_bias": True,
    "feat_extract_norm": "layer",
    "do_stable_layer_norm": True,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
NAMES = ("arousal", "dominance", "valence")
NORM = (-0.0002, 0.083)
CHALLENGE = ("final_ssl.pt", "final_pool.pt", "final_ser.pt")
Weights = dict[str, torch.Tensor]


def noise(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) / 4


def dense_weights(outputs: int = 3, dim: int = DIM) -> tuple[torch.nn.Module, Weights]:
    torch.manual_seed(1)
    encoder = Wav2Vec2Model(Wav2Vec2Config(**SIZES)).eval()
    head = {
        "classifier.dense.weight": noise(dim, dim, seed=2),
        "classifier.dense.bias": noise(dim, seed=3),
        "classifier.out_proj.weight": noise(outputs, dim, seed=4) / 3,
        "classifier.out_proj.bias": noise(outputs, seed=5) + 0.5,
    }
    return encoder, {**{f"wav2vec2.{name}": weight for name, weight in encoder.state_dict().items()}, **head}


def dense_config(names: tuple[str, ...] = NAMES) -> dict[str, Any]:
    return {
        **Wav2Vec2Config(**SIZES).to_diff_dict(),
        "architectures": ["Wav2Vec2ForSpeechClassification"],
        "model_type": "wav2vec2",
        "num_labels": len(names),
        "id2label": {str(place): name for place, name in enumerate(names)},
        "final_dropout": 0.1,
        "vocab_size": None,
    }


def odyssey_weights(outputs: int = 3) -> tuple[torch.nn.Module, Weights]:
    torch.manual_seed(6)
    encoder = WavLMModel(WavLMConfig(**SIZES)).eval()
    head = {
        "pool_model.sap_linear.weight": noise(DIM, DIM, seed=7),
        "pool_model.sap_linear.bias": noise(DIM, seed=8),
        "pool_model.attention": noise(DIM, 1, seed=9) * 8,
        "ser_model.fc.0.0.weight": noise(HIDDEN, 2 * DIM, seed=10),
        "ser_model.fc.0.0.bias": noise(HIDDEN, seed=11),
        "ser_model.fc.0.1.weight": noise(HIDDEN, seed=12) + 1,
        "ser_model.fc.0.1.bias": noise(HIDDEN, seed=13),
        "ser_model.out.0.weight": noise(outputs, HIDDEN, seed=14) / 3,
        "ser_model.out.0.bias": noise(outputs, seed=15) + 0.5,
    }
    return encoder, {**{f"ssl_model.{name}": weight for name, weight in encoder.state_dict().items()}, **head}


def odyssey_config(names: tuple[str, ...] = NAMES) -> dict[str, Any]:
    return {
        "model_type": "ser",
        "ssl_type": "microsoft/wavlm-large",
        "num_classes": len(names),
        "hidden_size": 1024,
        "classifier_hidden_layers": 1,
        "classifier_dropout_prob": 0.5,
        "sampling_rate": 16_000,
        "mean": NORM[0],
        "std": NORM[1],
        "maxlen": 192_000,
        "id2label": {str(place): name for place, name in enumerate(names)},
        "auto_map": {"AutoModelForAudioClassification": "pipeline_utils.SERModel"},
    }


def write_model(folder: Path, config: dict[str, Any], weights: Weights, *, pickled: bool = False) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    if pickled:
        torch.save(weights, folder / "pytorch_model.bin")
    else:
        save_file({name: weight.contiguous() for name, weight in weights.items()}, folder / "model.safetensors")
    return folder


def write_dense(folder: Path, **options: Any) -> Path:
    write_model(folder, dense_config(), dense_weights()[1], **options)
    (folder / "preprocessor_config.json").write_text(json.dumps({"do_normalize": True, "sampling_rate": 16_000}))
    (folder / "README.md").write_text("---\nlicense: cc-by-nc-sa-4.0\n---\n# A tiny model\n")
    return folder


def write_odyssey(folder: Path, **options: Any) -> Path:
    return write_model(folder, odyssey_config(), odyssey_weights()[1], **options)


def write_challenge(folder: Path, outputs: int = 3) -> Path:
    """The challenge's own files."""
    folder.mkdir(parents=True)
    weights = odyssey_weights(outputs)[1]
    for part, name in zip(("ssl_model.", "pool_model.", "ser_model."), CHALLENGE, strict=True):
        own = {layer.removeprefix(part): weight for layer, weight in weights.items() if layer.startswith(part)}
        torch.save(own, folder / name)
    (folder / "train_norm_stat.pkl").write_bytes(pickle.dumps(tuple(map(np.float32, NORM))))
    return folder


def write_challenge_zip(folder: Path) -> Path:
    files = write_challenge(folder)
    with zipfile.ZipFile(folder.with_suffix(".zip"), "w") as archive:
        for path in files.iterdir():
            archive.write(path, f"dim_ser/{path.name}")
    return folder.with_suffix(".zip")


@torch.inference_mode()
def dense_outputs(waveform: NDArray[np.float32]) -> dict[str, float]:
    encoder, weights = dense_weights()
    normalised = (waveform - waveform.mean()) / np.sqrt(waveform.var() + 1e-7)
    hidden = encoder(torch.from_numpy(normalised)[None]).last_hidden_state.mean(dim=1)
    head = [
        weights[f"classifier.{name}"] for name in ("dense.weight", "dense.bias", "out_proj.weight", "out_proj.bias")
    ]
    outputs = functional.linear(torch.tanh(functional.linear(hidden, *head[:2])), *head[2:])
    return dict(zip(NAMES, (1 + 6 * outputs[0].double()).tolist(), strict=True))


@torch.inference_mode()
def odyssey_outputs(waveform: NDArray[np.float32]) -> dict[str, float]:
    encoder, weights = odyssey_weights()
    normalised = torch.from_numpy((waveform[:192_000] - NORM[0]) / (NORM[1] + 1e-6)).float()[None]
    frames = encoder(normalised, attention_mask=torch.ones_like(normalised)).last_hidden_state[0]
    linear = functional.linear(frames, weights["pool_model.sap_linear.weight"], weights["pool_model.sap_linear.bias"])
    attention = torch.softmax(torch.tanh(linear) @ weights["pool_model.attention"][:, 0], dim=0)
    mean = attention @ frames
    deviation = torch.sqrt((attention @ frames**2 - mean**2).clamp(min=1e-5))
    own = {name.removeprefix("ser_model."): weight for name, weight in weights.items() if name.startswith("ser_model.")}
    hidden = functional.linear(torch.cat([mean, deviation]), own["fc.0.0.weight"], own["fc.0.0.bias"])
    hidden = torch.relu(functional.layer_norm(hidden, [HIDDEN], own["fc.0.1.weight"], own["fc.0.1.bias"]))
    outputs = functional.linear(hidden, own["out.0.weight"], own["out.0.bias"])
    return dict(zip(NAMES, (1 + 6 * outputs.double()).tolist(), strict=True))


FORMS: dict[str, tuple[Callable[..., Path], Callable[[NDArray[np.float32]], dict[str, float]]]] = {
    "dense": (write_dense, dense_outputs),
    "odyssey": (write_odyssey, odyssey_outputs),
    "challenge": (write_challenge, odyssey_outputs),
    "zip": (write_challenge_zip, odyssey_outputs),
}
