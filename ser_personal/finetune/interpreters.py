"""Interpreters: the head from an utterance's personalised frames to its attributes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import torch
from torch import nn

from ser_personal.encoder.pooling import mean_pool
from ser_personal.ranges import require_range

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from ser_personal.types import EncoderOutput


class Interpreter(nn.Module, ABC):
    """From personalised frames to one value an attribute; built once the encoder's width is known.

    Attributes:
        reads_speaker: whether it takes e_s beside the frames.
    """

    reads_speaker = False

    @abstractmethod
    def build(self, dim: int, outputs: int) -> None:
        """Make the layers for frames of width `dim` and that many attributes."""

    @abstractmethod
    def start_at(self, label_means: Sequence[float]) -> None:
        """Predict the training labels' means at first; from 0, training by CCC stalls on labels of 1 to 7."""

    @abstractmethod
    def forward(self, output: EncoderOutput) -> Tensor:
        """Interpret an encoder's output, -> (batch, attributes)."""


class MLPInterpreter(Interpreter):
    """The paper's interpreter: mean over real frames, then twice FC, ReLU, dropout, batch norm, then FC.

    Args:
        hidden_dims: width of each hidden layer.
        dropout: of each hidden layer.

    Raises:
        UserError: a number is out of its range.
    """

    def __init__(self, hidden_dims: tuple[int, ...] = (128, 32), dropout: float = 0.1) -> None:
        for width in hidden_dims:
            require_range("hidden_dims", width, 1)
        require_range("dropout", dropout, 0, 1)
        super().__init__()
        self.hidden_dims = hidden_dims
        self.dropout = dropout
        self.layers = nn.Sequential()

    def build(self, dim: int, outputs: int) -> None:
        """Make the layers for frames of width `dim` and that many attributes."""
        layers: list[nn.Module] = []
        for width in self.hidden_dims:
            layers += [nn.Linear(dim, width), nn.ReLU(), nn.Dropout(self.dropout), nn.BatchNorm1d(width)]
            dim = width
        self.layers = nn.Sequential(*layers, nn.Linear(dim, outputs))

    def start_at(self, label_means: Sequence[float]) -> None:
        """Start the last bias at the training labels' means."""
        last = self.layers[-1]
        if isinstance(last, nn.Linear):
            with torch.no_grad():
                last.bias.copy_(torch.tensor(label_means))

    def forward(self, output: EncoderOutput) -> Tensor:
        """Interpret an encoder's output, -> (batch, attributes)."""
        predictions: Tensor = self.layers(mean_pool(output))
        return predictions
