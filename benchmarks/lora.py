"""A fine-tuning step of HuBERT-base by LoRA against one of all its weights: seconds, and memory. Random weights.

    python benchmarks/lora.py

Forward, backward and AdamW over clips of 5 s by a mean over frames, convolutions frozen on both sides, which take turns
in one process. Memory is what a step keeps for its way back, and the gradients and AdamW's two moments: what differs
between the sides; both hold the weights besides. Needs `pip install peft`.
"""

from __future__ import annotations

import argparse
import time
from statistics import median
from typing import TYPE_CHECKING

import torch
from record import record
from transformers import HubertConfig

from ser_personal.audio import SAMPLE_RATE
from ser_personal.encoder.base import mean_pool
from ser_personal.encoder.hubert import HubertEncoder
from ser_personal.encoder.hugging_face import LoRA

if TYPE_CHECKING:
    from torch import Tensor

SECONDS = 5
MIB = 2**20


class Side:
    """An encoder, its optimiser, and steps of it."""

    def __init__(self, lora: LoRA | None, clips: int) -> None:
        torch.manual_seed(0)
        self.encoder = HubertEncoder(freeze_cnn=True)
        self.encoder.build(HubertConfig().to_json_string(use_diff=False))
        self.encoder.adapt(lora)
        self.encoder.freeze_mask_embedding()
        self.encoder.train()
        self.learnt = [weight for weight in self.encoder.parameters() if weight.requires_grad]
        self.optimizer = torch.optim.AdamW(self.learnt, lr=1e-5)
        self.waveforms, self.lengths = torch.randn(clips, SECONDS * SAMPLE_RATE), torch.tensor([80_000] * clips)

    def step(self) -> float:
        """Seconds of a step."""
        started = time.perf_counter()
        self.optimizer.zero_grad()
        self._loss().backward()
        self.optimizer.step()
        return time.perf_counter() - started

    def _loss(self) -> Tensor:
        return mean_pool(self.encoder(self.waveforms, self.lengths)).square().mean()

    def kept(self) -> float:
        """MiB that a step keeps from its way forward, the weights left out."""
        weights = {weight.untyped_storage().data_ptr() for weight in self.encoder.parameters()}
        sizes: dict[int, int] = {}

        def keep(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                sizes[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            self._loss()
        return sum(sizes.values()) / MIB

    def state(self) -> float:
        """MiB of gradients and AdamW's moments."""
        return 3 * 4 * sum(weight.numel() for weight in self.learnt) / MIB


def main() -> None:
    """Measure both sides in turns, print and record them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2, help="processor threads")
    parser.add_argument("--turns", type=int, default=3, help="counted steps of each side")
    parser.add_argument("--clips", type=int, default=2, help="clips of 5 s in a batch")
    parser.add_argument("--rank", type=int, default=8, help="of the adapters")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    sides = {"full": Side(None, arguments.clips), "LoRA": Side(LoRA(rank=arguments.rank), arguments.clips)}
    turns = [{name: side.step() for name, side in sides.items()} for _ in range(arguments.turns + 1)][1:]
    ratio = median(turn["full"] / turn["LoRA"] for turn in turns)
    parts = [
        f"{name} {median(turn[name] for turn in turns):.2f} s, {side.kept():.0f} MiB of activations, "
        f"{side.state():.0f} MiB of gradients and moments, "
        f"{sum(weight.numel() for weight in side.learnt) / 1e6:.2f} M weights learnt"
        for name, side in sides.items()
    ]
    result = (
        f"{ratio:.2f} x a full step's speed; {'; '.join(parts)}; rank {arguments.rank}, {arguments.clips} clips of "
        f"{SECONDS} s, medians of {arguments.turns}, {arguments.threads} threads"
    )
    print(result)
    record(result, ("torch", "transformers", "peft"))


if __name__ == "__main__":
    main()
