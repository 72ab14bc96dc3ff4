"""An epoch of fine-tuning from the feature cache against the same epoch through the frozen encoder, HuBERT-base's size.

    python benchmarks/feature_cache.py

Random weights and 6 s of noise an utterance: only speed is looked at. Both sides train the same interpreter on batches
of the same utterances by the same Trainer; the encoder's side decodes audio and runs the network, the cache's side
reads frames at stride 10. Prints also how long it took to build the cache by batches of 16 s, as configs/cache.yaml has
it, how large it is, and the most memory that the process, libraries included, held until it was built.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import numpy as np
import soundfile
import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from record import record
from transformers import HubertConfig, HubertModel

from ser_personal.audio import SAMPLE_RATE
from ser_personal.data.datamodule import AllUtterancesDataModule
from ser_personal.data.emotion import CachedEmotionDataModule, EmotionDataModule
from ser_personal.encoder.hubert import HubertEncoder
from ser_personal.encoder.raw import CachedFeatures
from ser_personal.errors import silence_warnings
from ser_personal.finetune.module import EmotionFineTuning
from ser_personal.pretrain.cache import cache

if TYPE_CHECKING:
    from ser_personal.encoder.base import Encoder
    from ser_personal.types import TrainingSet


HELD_OUT = 2


class FrozenHubert(HubertEncoder):
    """Nothing of it is learnt, and no gradient is kept."""

    def build(self, config: str | None = None, training_set: TrainingSet | None = None) -> None:
        """Make the network and freeze it."""
        super().build(config, training_set)
        self.requires_grad_(requires_grad=False)


class Clock(Callback):
    """Notes when each epoch ends."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note the time."""
        if trainer.strategy.root_device.type == "cuda":
            torch.cuda.synchronize()
        self.ends.append(time.perf_counter())


def main() -> None:
    """Measure both sides in turns, print their ratio and record it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--utterances", type=int, default=32, help="of an epoch")
    parser.add_argument("--batch", type=int, default=8, help="utterances of a batch")
    parser.add_argument("--layers", type=int, default=12, help="of the encoder; fewer to try the benchmark out")
    parser.add_argument("--turns", type=int, default=3, help="counted epochs of each side")
    parser.add_argument("--threads", type=int, default=2, help="processor threads")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--no-record", action="store_true", help="print alone")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    silence_warnings()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(Path(folder), arguments)
    print(result)
    if not arguments.no_record:
        record(result, ("torch", "lightning", "transformers"))


def measure(folder: Path, arguments: argparse.Namespace) -> str:
    """Say in words what an epoch takes on both sides."""
    corpus = write_corpus(folder, arguments.utterances)
    torch.manual_seed(0)
    HubertModel(HubertConfig(num_hidden_layers=arguments.layers)).save_pretrained(folder / "hubert")
    accelerator = "gpu" if arguments.device == "cuda" else "cpu"
    started = time.perf_counter()
    audio = AllUtterancesDataModule(corpus, batch_seconds=16.0)
    cache(audio, HubertEncoder(str(folder / "hubert")), out=str(folder / "cache"), accelerator=accelerator)
    built = time.perf_counter() - started
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    size = sum(path.stat().st_size for path in (folder / "cache").glob("batch-*"))
    sides: dict[str, tuple[Encoder, LightningDataModule]] = {
        "encoder": (
            FrozenHubert(str(folder / "hubert")),
            EmotionDataModule(corpus, max_batch=arguments.batch, num_workers=1),
        ),
        "cache": (
            CachedFeatures(),
            CachedEmotionDataModule(corpus, cache=str(folder / "cache"), max_batch=arguments.batch),
        ),
    }
    seconds = {name: epochs(*side, accelerator, arguments.turns) for name, side in sides.items()}
    typical = {name: median(taken) for name, taken in seconds.items()}
    return (
        f"{typical['encoder'] / typical['cache']:.0f} x faster from the cache: an epoch of {arguments.utterances} "
        f"utterances of 6 s took {typical['encoder']:.2f} s through the encoder of {arguments.layers} layers, "
        f"{typical['cache']:.3f} s from the cache (medians of {arguments.turns}); built in {built:.1f} s "
        f"with at most {held:.2f} GiB, {size / (arguments.utterances + HELD_OUT) / 1e3:.1f} kB an utterance; "
        f"{arguments.device}, {arguments.threads} threads"
    )


def epochs(encoder: Encoder, data: LightningDataModule, accelerator: str, turns: int) -> list[float]:
    """Seconds of each counted epoch; the first, with the loader's start and the network's, isn't."""
    clock = Clock()
    trainer = Trainer(
        accelerator=accelerator,
        devices=1,
        max_epochs=turns + 1,
        limit_val_batches=0,
        callbacks=[clock],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    trainer.fit(EmotionFineTuning(encoder=encoder), datamodule=data)
    return np.diff(clock.ends).tolist()


def write_corpus(folder: Path, utterances: int) -> str:
    """Write noise of 6 s, of eight speakers."""
    rng = np.random.default_rng(0)
    rows = ["path,speaker,split,arousal"]
    for number in range(utterances + HELD_OUT):
        soundfile.write(folder / f"{number}.wav", 0.1 * rng.normal(size=6 * SAMPLE_RATE), SAMPLE_RATE)
        split = "train" if number < utterances else "validation"
        rows.append(f"{number}.wav,{split}{number % 8},{split},{1 + number % 7}")
    (folder / "corpus.csv").write_text("\n".join(rows))
    return str(folder / "corpus.csv")


if __name__ == "__main__":
    main()
