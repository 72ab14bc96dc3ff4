"""Tiny models of the forms in which public emotion models are published, and what they predict, computed apart."""

import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch.nn import functional
from transformers import Wav2Vec2Config, Wav2Vec2Model, WavLMConfig, WavLMModel

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
        "ssl_type": "microsoft/wavlm-large",
        "classifier_dropout_prob": 0.5,
        "sampling_rate": 16_000,
        "mean": NORM[0],
        "std": NORM[1],
        "maxlen": 192_000,
        "id2label": {str(place): name for place, name in enumerate(names)},
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
    names = ("dense.weight", "dense.bias", "out_proj.weight", "out_proj.bias")
    head = [weights[f"classifier.{name}"] for name in names]
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


VOX_SIZES = SIZES | {"num_hidden_layers": 4}
VOX_CONFIG = {"pretrain_model": "wavlm_large", "hidden_dim": HIDDEN, "finetune_method": "lora", "lora_rank": 2}


def vox_weights() -> tuple[torch.nn.Module, Weights]:
    """Adapters beside the feed-forward part of the last layer, as in the upper half of the published model."""
    torch.manual_seed(16)
    encoder = WavLMModel(WavLMConfig(**VOX_SIZES)).eval()
    weights = {f"backbone_model.{name}": weight.clone() for name, weight in encoder.state_dict().items()}
    for part, (rows, columns) in {"intermediate_dense": (24, DIM), "output_dense": (DIM, 24)}.items():
        where = f"backbone_model.encoder.layers.3.feed_forward.{part}"
        weights[f"{where}.lora_A"] = noise(2, columns, seed=17 + rows)
        weights[f"{where}.lora_B"] = noise(rows, 2, seed=18 + rows)
    weights["weights"] = noise(5, seed=19) * 4
    for place, width in ((0, DIM), (3, HIDDEN), (6, HIDDEN)):
        weights[f"model_seq.{place}.weight"] = noise(HIDDEN, width, 1, seed=20 + place)
        weights[f"model_seq.{place}.bias"] = noise(HIDDEN, seed=30 + place)
    for seed, name in enumerate(("arousal", "valence", "dominance")):
        for place, rows in ((0, HIDDEN), (2, 1)):
            weights[f"{name}_layer.{place}.weight"] = noise(rows, HIDDEN, seed=40 + 4 * seed + place) * 2
            weights[f"{name}_layer.{place}.bias"] = noise(rows, seed=60 + 4 * seed + place)
    return encoder, weights


def write_vox(folder: Path, **options: Any) -> Path:
    return write_model(folder, VOX_CONFIG, vox_weights()[1], **options)


@torch.inference_mode()
def vox_outputs(waveform: NDArray[np.float32]) -> dict[str, float]:
    encoder, weights = vox_weights()
    feed_forward = encoder.encoder.layers[3].feed_forward
    for part in ("intermediate_dense", "output_dense"):
        where = f"backbone_model.encoder.layers.3.feed_forward.{part}"
        change = weights[f"{where}.lora_B"] @ weights[f"{where}.lora_A"] / 2
        getattr(feed_forward, part).weight += change
    normalised = torch.from_numpy((waveform - waveform.mean()) / np.sqrt(waveform.var() + 1e-7))[None]
    output = encoder(normalised, output_hidden_states=True)
    # the last one normed, as transformers gave it when the model was trained
    states = [*output.hidden_states[:-1], output.last_hidden_state]
    frames = sum(share * state for share, state in zip(weights["weights"].softmax(0), states, strict=True))
    hidden = frames.transpose(1, 2)
    for place in (0, 3, 6):
        hidden = functional.conv1d(hidden, weights[f"model_seq.{place}.weight"], weights[f"model_seq.{place}.bias"])
        hidden = hidden if place == 6 else hidden.relu()
    hidden = hidden.mean(2)
    outputs = {}
    for name in ("arousal", "valence", "dominance"):
        first, last = ([weights[f"{name}_layer.{place}.{part}"] for part in ("weight", "bias")] for place in (0, 2))
        outputs[name] = 1 + 6 * functional.linear(functional.linear(hidden, *first).relu(), *last).sigmoid().item()
    return outputs


FORMS: dict[str, tuple[Callable[..., Path], Callable[[NDArray[np.float32]], dict[str, float]]]] = {
    "dense": (write_dense, dense_outputs),
    "odyssey": (write_odyssey, odyssey_outputs),
    "challenge": (write_challenge, odyssey_outputs),
    "vox": (write_vox, vox_outputs),
    "zip": (write_challenge_zip, odyssey_outputs),
}
