"""A whole PAPT step of HuBERT-base against torchaudio's `HuBERTPretrainModel`, bf16 autocast, on the CPU or a GPU.

    python benchmarks/papt_step.py

Forward, backward and optimiser step over 4 clips of 5 s, 500 clusters, dropout 0.1, no layer drop, the convolutions
trained on both sides; and once more with our convolutions frozen. The sides take turns in one process, and the ratios
are medians over the turns.
"""

from __future__ import annotations

import argparse
import time
from statistics import median
from typing import TYPE_CHECKING

import torch
from record import record
from torch.nn import functional
from torchaudio.models import hubert_pretrain_base
from transformers import HubertConfig

from ser_personal.audio import SAMPLE_RATE, num_frames
from ser_personal.encoder.hubert import HubertEncoder
from ser_personal.encoder.personalized import PersonalizedEncoder
from ser_personal.pretrain.masked_prediction import PredictionHead, masked_prediction_loss, span_mask
from ser_personal.speakers.embedding import SpeakerEmbedding

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

CLIPS, SECONDS, CLUSTERS, SPEAKERS = 4, 5, 500, 1000
SAMPLES = SECONDS * SAMPLE_RATE


def main() -> None:
    """Measure the three sides in turns, print the ratios and record them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2, help="processor threads")
    parser.add_argument("--turns", type=int, default=5, help="counted steps of each side")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    sides = {
        "torchaudio": torchaudio_side(device),
        "ours": our_side(device, freeze_cnn=False),
        "ours, CNN frozen": our_side(device, freeze_cnn=True),
    }
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(arguments.turns + 1):
        for name, step in sides.items():
            taken = timed(step, device)
            if turn > 0:
                seconds[name].append(taken)
    typical = {name: median(taken) for name, taken in seconds.items()}
    ratios = {
        name: median(theirs / own for theirs, own in zip(seconds["torchaudio"], seconds[name], strict=True))
        for name in sides
    }
    where = torch.cuda.get_device_name() if device.type == "cuda" else f"{arguments.threads} threads"
    result = (
        f"{ratios['ours']:.2f} x torchaudio's speed with the CNN trained, {ratios['ours, CNN frozen']:.2f} x with it "
        f"frozen ({', '.join(f'{name} {1e3 * taken:.0f} ms' for name, taken in typical.items())} a step, "
        f"medians of {arguments.turns}); {where}"
    )
    print(result)
    record(result, ("torch", "torchaudio", "transformers"))


def timed(step: Callable[[], None], device: torch.device) -> float:
    """Seconds of one step."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def batch(device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Waveforms (batch, samples), their lengths (batch,), pseudo-labels (batch, frames)."""
    generator = torch.Generator().manual_seed(0)
    waveforms = torch.randn(CLIPS, SAMPLES, generator=generator)
    labels = torch.randint(CLUSTERS, (CLIPS, num_frames(SAMPLES)), generator=generator)
    return waveforms.to(device), torch.full((CLIPS,), SAMPLES, device=device), labels.to(device)


def torchaudio_side(device: torch.device) -> Callable[[], None]:
    """A step of torchaudio's model with the loss of its training example."""
    model = hubert_pretrain_base(encoder_layer_drop=0.0, num_classes=CLUSTERS).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    waveforms, lengths, labels = batch(device)

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16):
            logits, _, penalty = model(waveforms, labels, lengths)
        wanted = torch.zeros(len(logits), dtype=torch.long, device=device)
        loss = functional.cross_entropy(logits.float(), wanted, reduction="sum") + 10 * penalty * len(logits)
        optimizer.zero_grad()
        (loss / len(logits)).backward()
        optimizer.step()

    return step


def our_side(device: torch.device, *, freeze_cnn: bool) -> Callable[[], None]:
    """A step of ours, with speaker embeddings."""
    encoder = HubertEncoder(freeze_cnn=freeze_cnn, dropout=0.1, gradient_scale=0.1)
    personalized = PersonalizedEncoder(encoder, SpeakerEmbedding(), "last")
    personalized.rebuild(
        {
            "encoder": "HubertEncoder",
            "encoder_config": HubertConfig().to_json_string(use_diff=False),
            "fusion": "last",
            "speakers": {
                "name": "SpeakerEmbedding",
                "sizes": {"embedding_dim": 128},
                "speaker_ids": [str(speaker) for speaker in range(SPEAKERS)],
                "feature_dim": 0,
            },
            "pretrained_on": "",
        }
    )
    head = PredictionHead(personalized.dim, CLUSTERS).to(device)
    personalized.to(device).train()
    weights = [weight for weight in [*personalized.parameters(), *head.parameters()] if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=1e-5)
    waveforms, lengths, labels = batch(device)
    speaker_ids: list[str | None] = [str(clip) for clip in range(CLIPS)]
    indices = torch.arange(CLIPS)

    def step() -> None:
        time_mask = span_mask(num_frames(lengths))
        with torch.autocast(device.type, torch.bfloat16):
            output = personalized(
                {"waveforms": waveforms, "num_samples": lengths, "speaker_ids": speaker_ids, "indices": indices},
                time_mask,
            )
            prediction = masked_prediction_loss(output.frames, labels, time_mask, head)
        loss = prediction.loss / prediction.masked
        if output.feature_penalty.requires_grad:
            loss = loss + 10 * output.feature_penalty
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


if __name__ == "__main__":
    main()
