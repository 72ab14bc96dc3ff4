from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from transformers import AutoConfig, AutoModel

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NORMS = ("group", "layer")


def tiny_network(model_type: str, norm: str, **shape: int) -> PreTrainedModel:
    """A random transformers model: group norm and post-norm as base models have them, or layer norm and pre-norm."""
    torch.manual_seed(0)
    settings = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "conv_dim": [16] * 7,
        "conv_bias": norm == "layer",
        "feat_extract_norm": norm,
        "do_stable_layer_norm": norm == "layer",
        "num_conv_pos_embeddings": 16,
        "num_conv_pos_embedding_groups": 4,
        "vocab_size": 10,
    }
    config = AutoConfig.for_model(model_type, **settings | shape)
    return AutoModel.from_config(config).eval()


def padded_noise(lengths: torch.Tensor) -> torch.Tensor:
    """Noise (batch, samples) with zeros after each utterance's end."""
    samples = int(lengths.max())
    waveforms = torch.randn(len(lengths), samples, generator=torch.Generator().manual_seed(1))
    return waveforms * (torch.arange(samples) < lengths[:, None])
