"""A trained model without its training: waveforms -> pooled vectors and predictions, by torch or as model.onnx."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from threading import Lock
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import torch
from torch import nn
from typing_extensions import override

from ser_personal.audio import SAMPLE_RATE, WINDOW
from ser_personal.data.dataset import Example, collate
from ser_personal.data.resumable_loader import batch_sizes
from ser_personal.encoder.base import mean_pool
from ser_personal.encoder.speaker_fusion import Fusion, Personalization
from ser_personal.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

    from ser_personal.encoder.personalized import PersonalizedEncoder
    from ser_personal.finetune.interpreters import Interpreter
    from ser_personal.types import EncoderOutput, SpeechBatch

BATCH_SECONDS = 60
MAX_BATCH = 32
ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
ONNX_TOLERANCE = 1e-3
# their number is the process's: who changes it sets it back before the next one reads it
_THREADS_OF_TORCH = Lock()


class Recognized(NamedTuple):
    """`pooled` (utterances, dim), and label points (utterances, attributes) or probabilities (utterances, emotions)."""

    pooled: NDArray[np.float64]
    predictions: NDArray[np.float64]


class EmotionNetwork(nn.Module):
    """The networks of a `FineTuning`, built, under the names that its checkpoints give their weights.

    If it `classifies`, the interpreter's outputs are logits of emotions. If `bf16` is set, the encoder computes in
    bfloat16; the interpreter stays in float32, as in training.
    """

    def __init__(
        self, personalized: PersonalizedEncoder, interpreter: Interpreter, *, classifies: bool = False
    ) -> None:
        super().__init__()
        self.personalized = personalized
        self.interpreter = interpreter
        self.classifies = classifies
        self.bf16 = False

    @property
    def dim(self) -> int:
        """Width of `pooled`."""
        return self.personalized.dim

    @override
    def forward(self, batch: SpeechBatch) -> tuple[Tensor, Tensor]:
        """`pooled` (batch, dim) and predictions (batch, outputs)."""
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self.bf16):
            output = self.personalized(batch)
        output = output._replace(frames=output.frames.to(torch.promote_types(output.frames.dtype, torch.float32)))
        return mean_pool(output), self.interpret(output)

    def interpret(self, output: EncoderOutput) -> Tensor:
        """Label points (batch, attributes), or probabilities (batch, emotions)."""
        outputs: Tensor = self.interpreter(output)
        return outputs.softmax(1) if self.classifies else outputs

    def recognize(self, waveforms: Sequence[NDArray[np.float32]], speaker_ids: Sequence[str | None]) -> Recognized:
        """Predict one or more utterances, (samples,) each, 16 kHz, none shorter than one frame.

        What comes out of each doesn't depend on the others. Speakers outside the embedding table are None.
        """
        lengths = np.array([len(waveform) for waveform in waveforms], dtype=np.int64)
        order = np.argsort(-lengths, kind="stable")
        budget = max(BATCH_SECONDS * SAMPLE_RATE, int(lengths.max()))
        # on a processor, alone: a batch is no faster, and changes the last bits of what comes out of each
        most = 1 if self._device.type == "cpu" else MAX_BATCH
        cuts = np.cumsum(batch_sizes(lengths[order], budget, most))
        batches = [
            collate([Example(int(row), speaker_ids[row], waveforms[row]) for row in rows])
            for rows in np.split(order, cuts)[:-1]
        ]
        self.eval()
        recognized = self._recognize_in_threads(batches)
        back = np.argsort(order)
        return Recognized(*(np.concatenate(parts)[back] for parts in zip(*recognized, strict=True)))

    def _recognize_in_threads(self, batches: Sequence[SpeechBatch]) -> list[Recognized]:
        """A core a batch: cores that share a small model's products wait for each other more than they compute."""
        with _THREADS_OF_TORCH:
            before = torch.get_num_threads()
            workers = before if self._device.type == "cpu" else 1
            try:
                with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as threads:
                    return list(threads.map(self._recognize, batches))
            finally:
                torch.set_num_threads(before)

    def _recognize(self, batch: SpeechBatch) -> Recognized:
        batch["waveforms"] = batch["waveforms"].to(self._device)
        batch["num_samples"] = batch["num_samples"].to(self._device)
        with torch.inference_mode():
            pooled, predictions = self(batch)
        # not every device has float64
        return Recognized(pooled.cpu().double().numpy(), predictions.cpu().double().numpy())

    @property
    def _device(self) -> torch.device:
        return next(self.parameters()).device


class OnnxNetwork(nn.Module):
    """An `EmotionNetwork` of tensors alone; every speaker gets what its policy gives to unseen ones."""

    def __init__(self, network: EmotionNetwork) -> None:
        super().__init__()
        self.network = network
        self.uses_speakers = network.personalized.fusion_name != "none"
        speakers = network.personalized.speakers
        embedding = speakers([None]).detach() if self.uses_speakers else torch.zeros(1, network.dim)
        self.register_buffer("embedding", embedding)

    @override
    def forward(self, waveforms: Tensor, num_samples: Tensor) -> tuple[Tensor, Tensor]:
        """Predictions (batch, outputs) and `pooled` (batch, dim) of waveforms (batch, samples), padded by zeros."""
        personalized = self.network.personalized
        embedding = cast("Tensor", self.embedding).expand(waveforms.shape[0], -1)
        personalization = Personalization(cast("Fusion", personalized.fusion), embedding)
        output = personalized.encoder(waveforms, num_samples, personalization=personalization)
        output = output._replace(speaker_embedding=embedding if self.uses_speakers else None)
        return self.network.interpret(output), mean_pool(output)


def check_onnx_installed() -> None:
    """Refuse `--onnx` where a package is missing."""
    for package in ONNX_PACKAGES:
        if find_spec(package) is None:
            remedy = f"`pip install {' '.join(ONNX_PACKAGES)}`"
            raise UserError(f"needs the package {package}", where="--onnx", remedy=remedy)


def write_onnx(network: EmotionNetwork, path: Path) -> float:
    """Write a network of waveforms (batch, samples) and num_samples (batch,), int64; how much onnxruntime differs."""
    import onnxruntime

    onnx_network = OnnxNetwork(network).eval().cpu()
    sizes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("samples", min=WINDOW)}
    program: Any = torch.onnx.export(
        onnx_network,
        _padded_noise(torch.tensor([20_000, 9_000])),
        dynamo=True,
        verbose=False,
        input_names=("waveforms", "num_samples"),
        output_names=("predictions", "pooled"),
        dynamic_shapes={"waveforms": sizes, "num_samples": {0: sizes[0]}},
    )
    program.save(str(path))
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    waveforms, num_samples = _padded_noise(torch.tensor([31_000, WINDOW, 16_001]))
    with torch.inference_mode():
        expected = onnx_network(waveforms, num_samples)
    found = session.run(None, {"waveforms": waveforms.numpy(), "num_samples": num_samples.numpy()})
    difference = max(float(np.abs(ours.numpy() - theirs).max()) for ours, theirs in zip(expected, found, strict=True))
    if not difference < ONNX_TOLERANCE:
        raise RuntimeError(f"{path} differs from the network by {difference}")
    return difference


def _padded_noise(num_samples: Tensor) -> tuple[Tensor, Tensor]:
    noise = torch.randn(len(num_samples), int(num_samples.max()), generator=torch.Generator().manual_seed(0)) / 10
    return noise * (torch.arange(noise.shape[1]) < num_samples[:, None]), num_samples
