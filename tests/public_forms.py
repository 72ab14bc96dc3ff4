"""Tiny models in the forms in which public emotion models are published; each predicts what its import must."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import nn
from transformers import Wav2Vec2Config, Wav2Vec2Model, WavLMConfig, WavLMModel

DIM, HIDDEN = 16, 12
SIZES: dict[str, Any] = {"hidden_size": DIM, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
SIZES |= {"conv_dim": [8] * 7, "conv_bias": True, "feat_extract_norm": "layer", "do_stable_layer_norm": True}
SIZES |= {"num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4}
NAMES = ("arousal", "dominance", "valence")
NORM = (-0.0002, 0.083)
ENCODERS = ("wav2vec2.", "ssl_model.", "backbone_model.")
VOX_CONFIG = {"pretrain_model": "wavlm_large", "hidden_dim": HIDDEN, "finetune_method": "lora", "lora_rank": 2}
Weights = dict[str, torch.Tensor]


def normalised(waveform: NDArray[np.float32]) -> torch.Tensor:
    return torch.from_numpy((waveform - waveform.mean()) / np.sqrt(waveform.var() + 1e-7))[None]


class Dense(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.wav2vec2 = Wav2Vec2Model(Wav2Vec2Config(**SIZES))
        self.classifier = nn.ModuleDict({"dense": nn.Linear(DIM, DIM), "out_proj": nn.Linear(DIM, len(NAMES))})

    def forward(self, waveform: NDArray[np.float32]) -> torch.Tensor:
        pooled = self.wav2vec2(normalised(waveform)).last_hidden_state.mean(dim=1)[0]
        return self.classifier["out_proj"](self.classifier["dense"](pooled).tanh())


class Odyssey(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ssl_model = WavLMModel(WavLMConfig(**SIZES))
        self.pool_model = nn.ModuleDict({"sap_linear": nn.Linear(DIM, DIM)})
        self.pool_model.attention = nn.Parameter(2 * torch.randn(DIM, 1))
        layer = nn.Sequential(nn.Linear(2 * DIM, HIDDEN), nn.LayerNorm(HIDDEN), nn.ReLU())
        last = nn.Sequential(nn.Linear(HIDDEN, len(NAMES)))
        self.ser_model = nn.ModuleDict({"fc": nn.ModuleList([layer]), "out": last})

    def forward(self, waveform: NDArray[np.float32]) -> torch.Tensor:
        scaled = torch.from_numpy((waveform[:192_000] - NORM[0]) / (NORM[1] + 1e-6)).float()[None]
        frames = self.ssl_model(scaled, attention_mask=torch.ones_like(scaled)).last_hidden_state[0]
        scores = self.pool_model["sap_linear"](frames).tanh() @ self.pool_model.attention[:, 0]
        attention = torch.softmax(scores, dim=0)
        mean = attention @ frames
        deviation = torch.sqrt((attention @ frames**2 - mean**2).clamp(min=1e-5))
        hidden = self.ser_model["fc"][0](torch.cat([mean, deviation]))
        return self.ser_model["out"](hidden)


class Vox(nn.Module):
    """With adapters in the feed-forward part of the last layer, as in the upper half of the published model."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone_model = WavLMModel(WavLMConfig(**SIZES | {"num_hidden_layers": 4}))
        feed_forward = self.backbone_model.encoder.layers[3].feed_forward
        for linear in (feed_forward.intermediate_dense, feed_forward.output_dense):
            linear.lora_A = nn.Parameter(torch.randn(2, linear.in_features) / 4)
            linear.lora_B = nn.Parameter(torch.randn(linear.out_features, 2) / 4)
            linear.register_forward_hook(lambda of, given, out: out + given[0] @ of.lora_A.T @ of.lora_B.T / 2)
        self.weights = nn.Parameter(torch.randn(5))
        first, second, third = (nn.Conv1d(width, HIDDEN, 1) for width in (DIM, HIDDEN, HIDDEN))
        self.model_seq = nn.Sequential(first, nn.ReLU(), nn.Dropout(), second, nn.ReLU(), nn.Dropout(), third)
        for name in NAMES:
            head = nn.Sequential(nn.Linear(HIDDEN, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 1), nn.Sigmoid())
            self.add_module(f"{name}_layer", head)

    def forward(self, waveform: NDArray[np.float32]) -> torch.Tensor:
        output = self.backbone_model(normalised(waveform), output_hidden_states=True)
        # the last one normed, as transformers gave it when the model was trained
        states = [*output.hidden_states[:-1], output.last_hidden_state]
        frames = sum(share * state for share, state in zip(self.weights.softmax(0), states, strict=True))
        hidden = self.model_seq(frames.transpose(1, 2)).mean(2)[0]
        return torch.cat([self.get_submodule(f"{name}_layer")(hidden) for name in NAMES])


def published(kind: Callable[[], nn.Module]) -> nn.Module:
    """The same random model at every call."""
    torch.manual_seed(1)
    model = kind().eval()
    for name, weight in model.named_parameters():
        weight.requires_grad = False
        if not name.startswith(ENCODERS):
            weight.add_(torch.randn(weight.shape) / 4)
    return model


def weights_of(kind: Callable[[], nn.Module]) -> Weights:
    return published(kind).state_dict()


def outputs_of(kind: Callable[..., nn.Module]) -> Callable[[NDArray[np.float32]], dict[str, float]]:
    """What it predicts of a waveform, label points from 1 to 7."""
    return lambda waveform: dict(zip(NAMES, (1 + 6 * published(kind)(waveform).double()).tolist(), strict=True))


def named(names: tuple[str, ...]) -> dict[str, str]:
    return {str(place): name for place, name in enumerate(names)}


def dense_config(names: tuple[str, ...] = NAMES) -> dict[str, Any]:
    kind = {"architectures": ["Wav2Vec2ForSpeechClassification"], "model_type": "wav2vec2", "num_labels": len(names)}
    others = {"id2label": named(names), "final_dropout": 0.1, "vocab_size": None}
    return Wav2Vec2Config(**SIZES).to_diff_dict() | kind | others


def odyssey_config(names: tuple[str, ...] = NAMES) -> dict[str, Any]:
    network = {"ssl_type": "microsoft/wavlm-large", "classifier_dropout_prob": 0.5, "id2label": named(names)}
    return network | {"sampling_rate": 16_000, "mean": NORM[0], "std": NORM[1], "maxlen": 192_000}


def write_model(folder: Path, config: dict[str, Any], weights: Weights, *, pickled: bool = False) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    if pickled:
        torch.save(weights, folder / "pytorch_model.bin")
    else:
        save_file({name: weight.contiguous() for name, weight in weights.items()}, folder / "model.safetensors")
    return folder


def write_dense(folder: Path, **options: Any) -> Path:
    write_model(folder, dense_config(), weights_of(Dense), **options)
    (folder / "preprocessor_config.json").write_text(json.dumps({"do_normalize": True, "sampling_rate": 16_000}))
    (folder / "README.md").write_text("---\nlicense: cc-by-nc-sa-4.0\n---\n# A tiny model\n")
    return folder


def write_challenge(folder: Path) -> Path:
    """The challenge's own files."""
    folder.mkdir(parents=True)
    for part in ("ssl", "pool", "ser"):
        torch.save(getattr(published(Odyssey), f"{part}_model").state_dict(), folder / f"final_{part}.pt")
    (folder / "train_norm_stat.pkl").write_bytes(pickle.dumps(tuple(map(np.float32, NORM))))
    return folder


def write_challenge_zip(folder: Path) -> Path:
    write_challenge(folder / "files" / "dim_ser")
    return Path(shutil.make_archive(str(folder), "zip", folder / "files"))


FORMS: dict[str, tuple[Callable[..., Path], Callable[[NDArray[np.float32]], dict[str, float]]]] = {
    "dense": (write_dense, outputs_of(Dense)),
    "odyssey": (lambda folder: write_model(folder, odyssey_config(), weights_of(Odyssey)), outputs_of(Odyssey)),
    "challenge": (write_challenge, outputs_of(Odyssey)),
    "vox": (lambda folder: write_model(folder, VOX_CONFIG, weights_of(Vox)), outputs_of(Vox)),
    "zip": (write_challenge_zip, outputs_of(Odyssey)),
}
