"""Prediction of a test set with its speaker vectors, against the authors' way: a speaker at a time, files read again.

    python benchmarks/evaluation.py

The authors' evaluation goes through the speakers one by one, each in batches of its own, padded as the files come, and
reads and encodes all audio a second time for the speaker vectors. Ours is one pass in which both come from the same
frames. The two take turns in one process with the same random HuBERT.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import defaultdict
from statistics import median
from typing import TYPE_CHECKING

import torch
from record import record
from transformers import HubertConfig

from ser_personal.corpus.synthetic import synth
from ser_personal.data.dataset import collate
from ser_personal.data.emotion import EmotionDataModule
from ser_personal.data.resumable_loader import ExampleKey
from ser_personal.encoder.hubert import HubertEncoder
from ser_personal.finetune.module import EmotionFineTuning

if TYPE_CHECKING:
    from torch import Tensor

Predictions = dict[int, "Tensor"]


def main() -> None:
    """Time both sides in turns, check that they agree, print the ratio and record it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--speakers", type=int, default=20, help="of 8 utterances of 2.75 to 11 s each")
    parser.add_argument("--turns", type=int, default=2, help="counted runs of each side")
    parser.add_argument("--batch", type=int, default=32, help="utterances of a batch, at most")
    parser.add_argument("--threads", type=int, default=2, help="processor threads")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model = random_model()
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        synth(f"{folder}/corpus", speakers=arguments.speakers, utterances=8, min_seconds=2.75, max_seconds=11.0)
        data = EmotionDataModule(f"{folder}/corpus", max_batch=arguments.batch, num_workers=0)
        ours, theirs = [], []
        # the first pass also sets up libraries
        one_pass(model, data)
        for _ in range(arguments.turns):
            seconds, mine = timed(one_pass, model, data)
            ours.append(seconds)
            seconds, others = timed(speaker_by_speaker, model, data, arguments.batch)
            theirs.append(seconds)
    assert mine.keys() == others.keys()
    difference = max(float((mine[index] - others[index]).abs().max()) for index in mine)
    result = (
        f"{median(other / own for own, other in zip(ours, theirs, strict=True)):.2f} x faster than a speaker at a time "
        f"with files read twice ({median(ours):.1f} s, {median(theirs):.1f} s, medians of {arguments.turns}); "
        f"predictions differ by {difference:.0e} at most; {len(mine)} utterances, {arguments.threads} threads"
    )
    print(result)
    assert difference < 1e-4, "the two sides don't predict the same"
    record(result, ("torch", "transformers"))


def timed(side: object, *arguments: object) -> tuple[float, Predictions]:
    """Seconds of a side, and what it predicted."""
    started = time.perf_counter()
    predictions = side(*arguments)  # type: ignore[operator]
    return time.perf_counter() - started, predictions


def random_model() -> EmotionFineTuning:
    """A HuBERT of two layers of the base model's width, with a fresh head."""
    torch.manual_seed(0)
    model = EmotionFineTuning(encoder=HubertEncoder())
    model.personalized.rebuild(
        {
            "encoder": "HubertEncoder",
            "encoder_config": HubertConfig(num_hidden_layers=2).to_json_string(use_diff=False),
            "fusion": "none",
            "speakers": None,
            "pretrained_on": "",
        }
    )
    model.interpreter.build(model.personalized.dim, 1)
    return model.eval()


def one_pass(model: EmotionFineTuning, data: EmotionDataModule) -> Predictions:
    """Predictions and speaker vectors from one pass in batches of similar lengths."""
    predictions: Predictions = {}
    vectors: dict[str | None, list[Tensor]] = defaultdict(list)
    for batch in data.share_dataloader("test1"):
        result = model(batch)
        predictions.update(zip(result["indices"].tolist(), result["predictions"], strict=True))
        for speaker_id, pooled in zip(result["speaker_ids"], result["pooled"], strict=True):
            vectors[speaker_id].append(pooled)
    _ = {speaker_id: torch.stack(pooled).mean(0) for speaker_id, pooled in vectors.items()}
    return predictions


def speaker_by_speaker(model: EmotionFineTuning, data: EmotionDataModule, size: int) -> Predictions:
    """Predictions of each speaker in batches of its own, then its vector from the same files read once more."""
    predictions: Predictions = {}
    of_speaker = defaultdict(list)
    for index in data.split_indices("test1"):
        of_speaker[data.utterances[index].speaker_id].append(index)
    for indices in of_speaker.values():
        batches = [indices[start : start + size] for start in range(0, len(indices), size)]
        for batch in batches:
            result = model(collate([data.dataset[ExampleKey(index)] for index in batch]))
            predictions.update(zip(batch, result["predictions"], strict=True))
        pooled = [model(collate([data.dataset[ExampleKey(i)] for i in batch]))["pooled"] for batch in batches]
        _ = torch.cat(pooled).mean(0)
    return predictions


if __name__ == "__main__":
    main()
