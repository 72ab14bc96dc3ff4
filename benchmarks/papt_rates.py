"""How far PAPT's fresh parts get at a rate: prediction head and speaker table, on frames as wide as HuBERT-base's.

    python benchmarks/papt_rates.py --devices 8
    python benchmarks/papt_rates.py --tiny
    python benchmarks/papt_rates.py --base

Frames are 500 well-separated clusters, steps those of the paper's run on that many GPUs (28,000 on one), warm-up and
decay PAPT's own, so that what differs between the figures is the rate. For the speakers the head is a perfect one, and
each of 200 speakers moves all frames by a vector of their own, which e_s has to undo. `--tiny` and `--base` run PAPT
itself on a synthetic corpus, ten epochs, with the tiny encoder and with one of HuBERT-base's shape on a second of each
utterance, whose own rates are 5e-3 and the paper's 1e-5. Losses are in nats a held-out frame; chance is 6.2 in the
first two, 4.6 in these.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
from itertools import product
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from record import record
from torch.nn import functional
from transformers import HubertConfig, HubertModel

from ser_personal.corpus.synthetic import synth
from ser_personal.data.pretrain import PretrainDataModule
from ser_personal.encoder.hubert import HubertEncoder, TinyEncoder
from ser_personal.encoder.module import linear_warmup_and_decay
from ser_personal.pretrain.kmeans import PseudoLabelData, kmeans
from ser_personal.pretrain.masked_prediction import PredictionHead
from ser_personal.pretrain.papt import PAPT
from ser_personal.speakers.embedding import SpeakerEmbedding

CLUSTERS, DIM, SPEAKERS, STEPS_ON_ONE = 500, 768, 200, 28_000
RATES = (1e-5, 1e-4, 1e-3, 1e-2)


def main() -> None:
    """Measure, print and record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--devices", type=int, default=8)
    parser.add_argument("--frames", type=int, default=128, help="of a step")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--base", action="store_true")
    arguments = parser.parse_args()
    if arguments.tiny:
        result = papt(TinyEncoder(), 5e-3, [*product((1e-3, 5e-3, 2e-2), (1e-3, 5e-3, 2e-2))])
    elif arguments.base:
        with tempfile.TemporaryDirectory() as folder:
            HubertModel(HubertConfig()).save_pretrained(folder)
            rates = [(rate, rate) for rate in RATES]
            result = papt(HubertEncoder(folder), 1e-5, rates, max_samples=16_000, held_out=0.5)
    else:
        steps = STEPS_ON_ONE // arguments.devices
        lines = []
        for rate in RATES:
            torch.manual_seed(0)
            lines.append(f"{rate:g}: head {head(rate, steps, arguments.frames):.2f}")
            lines[-1] += f", speakers {speakers(rate, steps, arguments.frames):.2f}"
            print(lines[-1], flush=True)
        result = f"held-out loss after {steps} steps by peak rate: {'; '.join(lines)}"
    print(result)
    record(result, ("torch",))


def train(parameters: list[torch.nn.Parameter], rate: float, steps: int, loss: object) -> None:
    """Run PAPT's optimizer over `loss()`."""
    optimizer = torch.optim.AdamW(parameters, lr=rate, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.01)
    schedule = linear_warmup_and_decay(optimizer, steps, 0.05)
    for _ in range(steps):
        optimizer.zero_grad()
        loss().backward()  # type: ignore[operator]
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()


def draw(centres: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw frames (count, dim) and their clusters."""
    clusters = torch.randint(CLUSTERS, (count,))
    return centres[clusters] + 0.3 * torch.randn(count, DIM), clusters


def head(rate: float, steps: int, count: int) -> float:
    """Train a fresh head on frames that stay as they are."""
    centres, fresh = torch.randn(CLUSTERS, DIM), PredictionHead(DIM, CLUSTERS)

    def loss(count: int = count) -> torch.Tensor:
        frames, clusters = draw(centres, count)
        return functional.cross_entropy(fresh(frames), clusters)

    train(list(fresh.parameters()), rate, steps, loss)
    with torch.no_grad():
        return loss(4096).item()


def speakers(rate: float, steps: int, count: int) -> float:
    """Train the speaker table under a perfect head."""
    centres, moved = torch.randn(CLUSTERS, DIM), torch.randn(SPEAKERS, DIM)
    perfect = PredictionHead(DIM, CLUSTERS, DIM).requires_grad_(requires_grad=False)
    perfect.final_proj.weight.copy_(torch.eye(DIM))
    perfect.final_proj.bias.zero_()
    perfect.label_embeddings.copy_(centres)
    table = SpeakerEmbedding(128)
    table.build([str(speaker) for speaker in range(SPEAKERS)], DIM)

    def loss(utterances: int = 16, count: int = count) -> torch.Tensor:
        frames, clusters = draw(centres, count)
        who = torch.randint(SPEAKERS, (utterances,)).repeat_interleave(count // utterances)
        e_s = table([str(speaker) for speaker in who.tolist()])
        return functional.cross_entropy(perfect(frames + moved[who] + e_s), clusters)

    train(list(table.parameters()), rate, steps, loss)
    with torch.no_grad():
        return loss(4096, 4096).item()


def papt(encoder: HubertEncoder, learning_rate: float, rates: list[tuple[float, float]], **options: Any) -> str:
    """Run PAPT on a synthetic corpus of 24 speakers; -> held-out losses by the rates of head and speakers."""
    losses = []
    options = {"min_samples": 16_000, "held_out": 0.2, "num_workers": 0} | options
    with tempfile.TemporaryDirectory() as folder:
        corpus, labels = str(Path(folder) / "corpus"), str(Path(folder) / "labels")
        synth(corpus, speakers=24, utterances=8)
        kmeans(PseudoLabelData(corpus), out=labels, num_clusters=100, iterations=20)
        for head_rate, speaker_rate in rates:
            torch.manual_seed(0)
            data = PretrainDataModule(corpus, pseudo_labels=labels, **options)
            model = PAPT(
                copy.deepcopy(encoder),
                SpeakerEmbedding(),
                final_dim=64,
                learning_rate=learning_rate,
                head_learning_rate=head_rate,
                speaker_learning_rate=speaker_rate,
            )
            trainer = Trainer(
                accelerator="cpu", max_epochs=10, logger=False, enable_checkpointing=False, enable_progress_bar=False,
                use_distributed_sampler=False, num_sanity_val_steps=0,
            )  # fmt: skip
            trainer.fit(model, datamodule=data)
            losses.append(f"head {head_rate:g}, speakers {speaker_rate:g}: {trainer.callback_metrics['val_loss']:.3f}")
            print(losses[-1], flush=True)
    return "; ".join(losses)


if __name__ == "__main__":
    main()
