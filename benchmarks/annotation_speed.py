"""Predictions of files against the loop that people copy from model cards, with the same weights.

    python benchmarks/annotation_speed.py

The loop reads a file, puts it through transformers' model as a batch of one with all threads, and goes to the next.
Ours is `EmotionRecognizer.predict` over the list. Both have HuBERT-base's shape, random weights and a head on the mean
frame, and take turns in one process.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
import soundfile
import torch
from record import record
from transformers import HubertConfig, HubertModel

from ser_personal.calibration.pldc import PLDCSettings
from ser_personal.encoder.hubert import HubertEncoder
from ser_personal.finetune.module import EmotionFineTuning
from ser_personal.recognition.bundle import Bundle
from ser_personal.recognition.network import EmotionNetwork
from ser_personal.recognition.recognizer import EmotionRecognizer
from ser_personal.types import EncoderOutput

if TYPE_CHECKING:
    from torch import nn

RATE = 16_000


def main() -> None:
    """Time both in turns, check that they agree, print and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=12, help="of 2 to 15 s each")
    parser.add_argument("--turns", type=int, default=2, help="counted runs of each side")
    parser.add_argument("--layers", type=int, default=12, help="of the Transformer")
    parser.add_argument("--threads", type=int, default=2, help="processor threads")
    parser.add_argument("--bf16", action="store_true", help="ours in bfloat16")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    network, plain = models(arguments.layers)
    bundle = Bundle(network, "random", ("arousal",), None, 15 * RATE, PLDCSettings(), calibration="none")
    recognizer = EmotionRecognizer(bundle, device="cpu", bf16=arguments.bf16)
    with tempfile.TemporaryDirectory() as folder:
        paths = write(Path(folder), arguments.files)
        seconds = sum(soundfile.info(path).duration for path in paths)
        # the first pass also sets up libraries
        recognizer.predict(paths[:2])
        loop(plain, network, paths[:2])
        shares = bounds(plain, network, paths[:2])
        ours, theirs = [], []
        for _ in range(arguments.turns):
            took, other = timed(loop, plain, network, paths)
            theirs.append(took)
            took, own = timed(predict, recognizer, paths)
            ours.append(took)
    difference = float(np.abs(own - other).max())
    ratio = median(their / our for our, their in zip(ours, theirs, strict=True))
    result = (
        f"{ratio:.2f} x faster than a file at a time ({median(ours):.1f} s, {median(theirs):.1f} s, medians of "
        f"{arguments.turns}); predictions differ by {difference:.0e} at most; {len(paths)} files, {seconds:.0f} s, "
        f"{arguments.layers} layers, {arguments.threads} threads; of the loop, {shares}"
    )
    print(result)
    assert arguments.bf16 or difference < 1e-3, "the two sides don't predict the same"
    record(result, ("torch", "transformers"))


def bounds(plain: nn.Module, network: EmotionNetwork, paths: list[Path]) -> str:
    """What the loop spends its time on, the three largest operations."""
    with torch.profiler.profile() as profile:
        loop(plain, network, paths)
    spent = {event.key.removeprefix("aten::"): event.self_cpu_time_total for event in profile.key_averages()}
    largest = sorted(spent, key=lambda name: -spent[name])[:3]
    return ", ".join(f"{spent[name] / sum(spent.values()):.0%} {name}" for name in largest)


def predict(recognizer: EmotionRecognizer, paths: list[Path]) -> np.ndarray:
    """Ours."""
    return recognizer.predict(paths)["arousal_raw"].to_numpy()


def timed(side: object, *arguments: object) -> tuple[float, np.ndarray]:
    """Seconds of a side, and what it predicted."""
    started = time.perf_counter()
    predictions = side(*arguments)  # type: ignore[operator]
    return time.perf_counter() - started, predictions


def models(layers: int) -> tuple[EmotionNetwork, nn.Module]:
    """Ours, and transformers' model of the same weights."""
    torch.manual_seed(0)
    config = HubertConfig(num_hidden_layers=layers)
    model = EmotionFineTuning(encoder=HubertEncoder())
    model.personalized.rebuild(
        {
            "encoder": "HubertEncoder",
            "encoder_config": config.to_json_string(use_diff=False),
            "fusion": "none",
            "speakers": None,
            "pretrained_on": "",
        }
    )
    model.interpreter.build(model.personalized.dim, 1)
    plain = HubertModel(config).eval()
    encoder: Any = model.personalized.encoder
    weights = dict(encoder.network.state_dict())
    front_end = {f"feature_extractor.{name}": weight for name, weight in encoder.front_end.state_dict().items()}
    plain.load_state_dict({**weights, **front_end})
    return EmotionNetwork(model.personalized, model.interpreter).eval(), plain


def loop(plain: nn.Module, network: EmotionNetwork, paths: list[Path]) -> np.ndarray:
    """A file at a time, as model cards have it."""
    predictions = []
    for path in paths:
        waveform, _ = soundfile.read(path, dtype="float32")
        with torch.no_grad():
            frames = plain(torch.from_numpy(waveform)[None]).last_hidden_state
            output = EncoderOutput(frames, torch.ones(frames.shape[:2], dtype=torch.bool))
            predictions.append(network.interpreter(output).item())
    return np.array(predictions)


def write(folder: Path, count: int) -> list[Path]:
    """Files of noise in syllables, of 2 to 15 s."""
    rng = np.random.default_rng(0)
    paths = []
    for number, seconds in enumerate(rng.uniform(2, 15, count)):
        times = np.arange(int(seconds * RATE))
        noise = 0.2 * rng.normal(size=len(times)) * np.sin(np.pi * times / (0.2 * RATE)) ** 2
        paths.append(folder / f"{number}.wav")
        soundfile.write(paths[-1], noise, RATE)
    return paths


if __name__ == "__main__":
    main()
