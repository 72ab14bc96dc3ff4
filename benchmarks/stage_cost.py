"""Floating-point operations, weights and activations of each stage for a second of audio, counted, not measured.

    python benchmarks/stage_cost.py

Operations are counted by PyTorch's counter on tensors without values, so that no weights are needed. Activations are
the tensors that autograd keeps for the backward pass, with gradient checkpointing those that it keeps until then.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

import torch
from record import record
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode
from transformers import HubertConfig

from ser_personal.audio import SAMPLE_RATE
from ser_personal.encoder.hubert import HubertEncoder

if TYPE_CHECKING:
    from torch import Tensor

LARGE = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "feat_extract_norm": "layer",
    "do_stable_layer_norm": True,
    "conv_bias": True,
}


def main() -> None:
    """Count, print and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.75, help="of an utterance")
    arguments = parser.parse_args()
    counts = {
        "k-means teacher (base, 9 of 12 layers)": count({}, arguments.seconds, layers=9),
        "large, forward": count(LARGE, arguments.seconds),
        "large, PAPT step": count(LARGE, arguments.seconds, trains=True),
        "large, PAPT step, checkpointed": count(LARGE, arguments.seconds, trains=True, checkpointing=True),
        "large, fine-tuning step, CNN frozen": count(LARGE, arguments.seconds, trains=True, freeze_cnn=True),
    }
    for name, cost in counts.items():
        print(f"{name}: {cost}")
    record("; ".join(f"{name}: {cost}" for name, cost in counts.items()), ("torch", "transformers"))


def count(
    shape: dict[str, Any],
    seconds: float,
    *,
    layers: int | None = None,
    trains: bool = False,
    freeze_cnn: bool = False,
    checkpointing: bool = False,
) -> str:
    """Count one utterance through a HuBERT of that shape."""
    encoder = HubertEncoder(freeze_cnn=freeze_cnn, gradient_checkpointing=checkpointing)
    with torch.device("meta"):
        encoder.build(HubertConfig(**shape).to_json_string(use_diff=False))
    encoder.train(trains)
    samples = round(seconds * SAMPLE_RATE)
    batch = torch.empty(1, samples, device="meta"), torch.tensor([samples])
    if layers is not None:
        encoder.network.encoder.layers = encoder.network.encoder.layers[:layers]
    kept = Kept()
    with FlopCounterMode(display=False) as flops, torch.set_grad_enabled(trains):
        with saved_tensors_hooks(kept, lambda tensor: tensor):
            output = encoder(*batch)
        if trains:
            output.frames.sum().backward()
    weights = sum(weight.numel() for weight in encoder.parameters())
    parts = [f"{flops.get_total_flops() / seconds / 1e9:.1f} GFLOP a second of audio", f"{weights / 1e6:.0f} M weights"]
    if trains:
        parts.append(f"{kept.bytes / seconds / 2**20:.0f} MiB of float32 activations a second")
    return ", ".join(parts)


class Kept:
    """Adds up what autograd keeps, each tensor once and no weights."""

    def __init__(self) -> None:
        self._tensors: dict[int, Tensor] = {}

    def __call__(self, tensor: Tensor) -> Tensor:
        """Note a tensor."""
        if not isinstance(tensor, torch.nn.Parameter):
            # held, so that no other gets its number
            self._tensors[id(tensor)] = tensor
        return tensor

    @property
    def bytes(self) -> int:
        """Of all tensors noted."""
        return sum(tensor.nbytes for tensor in self._tensors.values())


if __name__ == "__main__":
    main()
