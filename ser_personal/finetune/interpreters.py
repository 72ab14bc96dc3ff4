"""Interpreters: the head from an utterance's personalised frames to its attributes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from torch import nn
from torch.nn import functional

from ser_personal.encoder.base import mean_pool
from ser_personal.errors import UserError, require_range

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


PoolingName = Literal["learnt", "attentive"]
SLOWEST = 10_000.0


class Tokens(NamedTuple):
    """What the layers read.

    Attributes:
        values: (batch, tokens, dim).
        is_real: (batch, tokens), False on padding.
    """

    values: Tensor
    is_real: Tensor


class TransformerInterpreter(Interpreter):
    """Transformer layers over [speaker token; frames], pooled to one vector, then FC. Ours.

    The speaker token is e_s, where the model has one, projected like a frame and told from frames by its place, the
    first; without e_s there is none.

    Args:
        dim: width of the layers.
        layers: how many.
        heads: attention heads.
        dropout: of the layers.
        pooling: what is read off: `learnt`, a learnt token's output, or `attentive`, the mean of the frames' outputs
            weighted by a learnt attention.
        stride: frames that are averaged to one before the layers.

    Raises:
        UserError: a number is out of its range, or `heads` doesn't divide `dim`.
    """

    reads_speaker = True

    def __init__(
        self,
        dim: int = 128,
        layers: int = 2,
        heads: int = 4,
        dropout: float = 0.1,
        pooling: PoolingName = "learnt",
        stride: int = 4,
    ) -> None:
        for name, value in {"dim": dim, "layers": layers, "heads": heads, "stride": stride}.items():
            require_range(name, value, 1)
        require_range("dropout", dropout, 0, 1)
        if dim % heads or dim % 2:
            raise UserError(
                f"{dim} is odd, or {heads} heads don't divide it", where="dim", remedy="Give a multiple of heads and 2"
            )
        super().__init__()
        self.dim, self.layers, self.heads, self.dropout = dim, layers, heads, dropout
        self.pooling: PoolingName = pooling
        self.stride = stride

    def build(self, dim: int, outputs: int) -> None:
        """Make the layers for frames of width `dim` and that many outputs."""
        self.projection = nn.Linear(dim, self.dim)
        self.pool = {"learnt": LearntToken, "attentive": AttentivePooling}[self.pooling](self.dim)
        layer = nn.TransformerEncoderLayer(
            self.dim, self.heads, 2 * self.dim, self.dropout, "gelu", batch_first=True, norm_first=True
        )
        self.transformer = nn.TransformerEncoder(
            layer, self.layers, norm=nn.LayerNorm(self.dim), enable_nested_tensor=False
        )
        self.last = nn.Linear(self.dim, outputs)

    def start_at(self, label_means: Sequence[float]) -> None:
        """Predict the training labels' means for every utterance at first."""
        with torch.no_grad():
            self.last.weight.zero_()
            self.last.bias.copy_(torch.tensor(label_means))

    def forward(self, output: EncoderOutput) -> Tensor:
        """Interpret an encoder's output, -> (batch, outputs)."""
        frames = average_frames(output.frames, output.frame_mask, self.stride)
        places = sinusoids(frames.values.shape[1] + 1, self.dim).to(frames.values)
        tokens = Tokens(self.projection(frames.values) + places[1:], frames.is_real)
        if output.speaker_embedding is not None:
            # the same projection: where nothing is fused, one of its own would be weights that no loss reaches
            speaker = self.projection(output.speaker_embedding.to(frames.values.dtype)) + places[0]
            tokens = prepend(speaker[:, None], tokens)
        tokens = self.pool.enter(tokens)
        hidden = self.transformer(tokens.values, src_key_padding_mask=~tokens.is_real)
        predictions: Tensor = self.last(self.pool.leave(hidden, frames.is_real))
        return predictions


class TokenPooling(nn.Module, ABC):
    """From the Transformer's outputs to one vector."""

    def enter(self, tokens: Tokens) -> Tokens:
        """Add the token that is read off, if any."""
        return tokens

    @abstractmethod
    def leave(self, hidden: Tensor, frame_mask: Tensor) -> Tensor:
        """Pool outputs (batch, tokens, dim), whose last are the frames' (batch, frames), -> (batch, dim)."""


class LearntToken(TokenPooling):
    """The output of a learnt token, which stands before all others."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.randn(dim) / dim**0.5)

    def enter(self, tokens: Tokens) -> Tokens:
        """Prepend the token."""
        return prepend(self.token.to(tokens.values.dtype).expand(tokens.values.shape[0], 1, -1), tokens)

    def leave(self, hidden: Tensor, frame_mask: Tensor) -> Tensor:
        """Take its output."""
        return hidden[:, 0]


class AttentivePooling(TokenPooling):
    """The mean of the frames' outputs, weighted by the softmax of a learnt score over real frames."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.score = nn.Linear(dim, 1)

    def leave(self, hidden: Tensor, frame_mask: Tensor) -> Tensor:
        """Average the frames' outputs."""
        frames = hidden[:, hidden.shape[1] - frame_mask.shape[1] :]
        scores = self.score(frames)[..., 0].masked_fill(~frame_mask, -torch.inf)
        averaged: Tensor = (scores.softmax(1)[..., None] * frames).sum(1)
        return averaged


def average_frames(frames: Tensor, frame_mask: Tensor, stride: int) -> Tokens:
    """Average every `stride` frames, real ones alone.

    Args:
        frames: (batch, frames, dim).
        frame_mask: (batch, frames), True on real frames, which come first.
        stride: how many become one; the last of an utterance may be of fewer.

    Returns:
        (batch, frames / stride, dim), the division rounded up.
    """
    real = frame_mask[:, :, None].to(frames.dtype)
    sums, counts = (
        # a pool over more padding than it needs, since a length isn't known when a graph is exported
        functional.avg_pool1d(functional.pad(each.transpose(1, 2), (0, stride - 1)), stride).transpose(1, 2)
        for each in (frames * real, real)
    )
    return Tokens(sums / counts.clamp(min=0.5 / stride), counts[:, :, 0] > 0)


def sinusoids(places: int, dim: int) -> Tensor:
    """Sinusoidal positions (Vaswani et al. 2017), (places, dim)."""
    rates = SLOWEST ** (-torch.arange(0, dim, 2) / dim)
    angles = torch.arange(places)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def prepend(token: Tensor, tokens: Tokens) -> Tokens:
    """Put one token (batch, 1, dim) before others."""
    return Tokens(torch.cat([token, tokens.values], dim=1), functional.pad(tokens.is_real, (1, 0), value=True))
