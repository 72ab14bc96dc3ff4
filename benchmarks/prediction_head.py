"""Our prediction head against torchaudio's: time and memory of a step, forward and backward, on the CPU.

    python benchmarks/prediction_head.py

Each side runs in its own process. Memory is the growth of the process's resident size over a step: its peak, reset
before the step, less what was resident then (Linux only). Run it on an idle machine: the fastest of many steps resists
others' load better than the median, but not well where they share all cores.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from record import record

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn

FRAMES, CLUSTERS, DIM, FINAL_DIM = 1000, 500, 768, 256


def main() -> None:
    """Measure both sides, print the ratios and record them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2, help="processor threads of each side")
    parser.add_argument(
        "--seconds", type=float, default=15, help="repeat a side's step that long, but three times at least"
    )
    parser.add_argument("--side", choices=["ours", "torchaudio"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        print(json.dumps(measure(arguments.side, arguments.threads, arguments.seconds)))
        return
    ours, theirs = (run_side(side, arguments.threads, arguments.seconds) for side in ("ours", "torchaudio"))
    fastest, typical, leaner = (theirs[key] / ours[key] for key in ("fastest", "median", "mebibytes"))
    difference = abs(ours["loss"] - theirs["loss"]) / abs(theirs["loss"])
    result = (
        f"{fastest:.0f} x faster by the fastest step ({1e3 * ours['fastest']:.1f} ms of {ours['steps']} steps, "
        f"torchaudio {1e3 * theirs['fastest']:.0f} ms of {theirs['steps']}), {typical:.0f} x by the median; "
        f"{leaner:.0f} x less memory ({ours['mebibytes']:.1f} MiB, torchaudio {theirs['mebibytes']:.0f} MiB); "
        f"losses differ by {difference:.0e} of themselves; {FRAMES} masked frames, {CLUSTERS} clusters, "
        f"{arguments.threads} threads"
    )
    print(result)
    assert difference < 1e-4, "the two sides don't compute the same loss"
    record(result)


def run_side(side: str, threads: int, duration: float) -> dict[str, float]:
    """Measure one side in a fresh process."""
    command = [sys.executable, __file__, "--side", side, "--threads", str(threads), "--seconds", str(duration)]
    measured: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return measured


def measure(side: str, threads: int, duration: float) -> dict[str, float]:
    """Run warm-up steps on few frames, which load libraries, then the steps that count."""
    import torch

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    head, step = {"ours": our_step, "torchaudio": torchaudio_step}[side]()
    head.load_state_dict({
        "final_proj.weight": torch.randn(FINAL_DIM, DIM) / DIM**0.5,
        "final_proj.bias": torch.zeros(FINAL_DIM),
        "label_embeddings": torch.rand(CLUSTERS, FINAL_DIM),
    })  # fmt: skip
    frames, pseudo_labels = torch.randn(1, FRAMES, DIM), torch.randint(CLUSTERS, (1, FRAMES))
    step(frames[:, :8], pseudo_labels[:, :8])
    seconds: list[float] = []
    mebibytes: list[float] = []
    until = time.perf_counter() + duration
    while time.perf_counter() < until or len(seconds) < 3:
        head.zero_grad(set_to_none=True)
        before = restart_peak()
        start = time.perf_counter()
        loss = step(frames, pseudo_labels)
        seconds.append(time.perf_counter() - start)
        mebibytes.append(peak_mebibytes() - before)
    # Later steps reuse what the allocator kept of earlier ones, so the first shows the memory.
    return {
        "steps": len(seconds),
        "fastest": min(seconds),
        "median": median(seconds),
        "mebibytes": max(mebibytes),
        "loss": loss,
    }


def our_step() -> tuple[nn.Module, Callable[[Tensor, Tensor], float]]:
    """Make our head and its step on frames (1, n, dim) that are all masked."""
    import torch

    from ser_personal.pretrain.masked_prediction import PredictionHead, masked_prediction_loss

    head = PredictionHead(DIM, CLUSTERS, FINAL_DIM)

    def step(frames: Tensor, pseudo_labels: Tensor) -> float:
        frames = frames.clone().requires_grad_()
        masked = torch.ones(pseudo_labels.shape, dtype=torch.bool)
        loss = masked_prediction_loss(frames, pseudo_labels, masked, head).loss
        loss.backward()
        return loss.item()

    return head, step


def torchaudio_step() -> tuple[nn.Module, Callable[[Tensor, Tensor], float]]:
    """Make the head of torchaudio's HuBERTPretrainModel, and its step with the loss of torchaudio's recipe."""
    import torch
    from torchaudio.models.wav2vec2.components import LogitGenerator

    head = LogitGenerator(DIM, CLUSTERS, FINAL_DIM, skip_masked=False, skip_nomask=True)

    def step(frames: Tensor, pseudo_labels: Tensor) -> float:
        frames = frames.clone().requires_grad_()
        masked = torch.ones(pseudo_labels.shape, dtype=torch.bool)
        logits, _ = head(frames, pseudo_labels, masked, ~masked)
        right = torch.zeros(len(logits), dtype=torch.long)
        loss = torch.nn.functional.cross_entropy(logits, right, reduction="sum")
        loss.backward()
        return loss.item()

    return head, step


def restart_peak() -> float:
    """Let the peak of the resident size start anew, from the size it returns."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def peak_mebibytes() -> float:
    """Return the peak of the resident size since the last reset."""
    return _status("VmHWM")


def _status(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024


if __name__ == "__main__":
    main()
