"""model.onnx: encoder and interpreter for runtimes without Python, speakers outside the embedding table alone."""

from __future__ import annotations

import logging
import warnings
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import nn

from ser_personal.encoder.base import mean_pool
from ser_personal.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from ser_personal.recognition.network import EmotionNetwork

INPUTS = ("waveforms", "num_samples")
OUTPUTS = ("predictions", "pooled")
TOLERANCE = 1e-3
_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


class ExportedNetwork(nn.Module):
    """An `EmotionNetwork` of tensors alone; every speaker gets what its policy gives to unseen ones.

    Args:
        network: the model.

    Raises:
        UserError: its policy refuses unseen speakers.
    """

    def __init__(self, network: EmotionNetwork) -> None:
        super().__init__()
        self.network = network
        personalized = network.personalized
        self.uses_speakers = personalized.fusion is not None and personalized.fusion.uses_speakers
        embedding = network.embed([None]).detach() if self.uses_speakers else torch.zeros(1, network.dim)
        self.register_buffer("embedding", embedding)

    def forward(self, waveforms: Tensor, num_samples: Tensor) -> tuple[Tensor, Tensor]:
        """Predictions (batch, attributes) and `pooled` (batch, dim) of waveforms (batch, samples), padded by zeros."""
        personalized = self.network.personalized
        embedding = cast("Tensor", self.embedding).expand(waveforms.shape[0], -1)
        output = personalized.encoder(waveforms, num_samples, fusion=personalized.fusion, speaker_embedding=embedding)
        output = output._replace(speaker_embedding=embedding if self.uses_speakers else None)
        return self.network.interpreter(output), mean_pool(output)


def check_installed() -> None:
    """Refuse where a package is missing.

    Raises:
        UserError: so it is.
    """
    missing = [package for package in _PACKAGES if find_spec(package) is None]
    if missing:
        raise UserError(
            f"needs the package {missing[0]}", where="--onnx", remedy=f"`pip install {' '.join(_PACKAGES)}`"
        )


def write_onnx(network: EmotionNetwork, path: Path) -> float:
    """Write a network that takes waveforms (batch, samples) and num_samples (batch,), int64.

    Returns:
        The greatest difference that onnxruntime's outputs make on a padded batch.
    """
    exported = ExportedNetwork(network).eval().cpu()
    example = _padded_batch(torch.tensor([20_000, 9_000]))
    batch, samples = torch.export.Dim("batch"), torch.export.Dim("samples", min=400)
    # torch's exporter tells of every operator of torchvision that it can't register
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program: Any = torch.onnx.export(
                exported,
                example,
                dynamo=True,
                verbose=False,
                input_names=INPUTS,
                output_names=OUTPUTS,
                dynamic_shapes={"waveforms": {0: batch, 1: samples}, "num_samples": {0: batch}},
            )
    finally:
        logger.setLevel(level)
    program.save(str(path))
    apart = difference(exported, path, torch.tensor([31_000, 400, 16_001]))
    if not apart < TOLERANCE:
        raise RuntimeError(f"{path} differs from the network by {apart}")
    return apart


def difference(exported: ExportedNetwork, path: Path, num_samples: Tensor) -> float:
    """The greatest difference between a network and its file, in label points or units of `pooled`, on noise."""
    import onnxruntime

    batch = _padded_batch(num_samples)
    with torch.inference_mode():
        expected = exported(*batch)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    outputs = session.run(list(OUTPUTS), {name: value.numpy() for name, value in zip(INPUTS, batch, strict=True)})
    return max(float(np.abs(mine.numpy() - theirs).max()) for mine, theirs in zip(expected, outputs, strict=True))


def _padded_batch(num_samples: Tensor) -> tuple[Tensor, Tensor]:
    noise = torch.randn(len(num_samples), int(num_samples.max()), generator=torch.Generator().manual_seed(0)) / 10
    return noise * (torch.arange(noise.shape[1]) < num_samples[:, None]), num_samples
