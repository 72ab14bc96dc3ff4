"""Interpreters: the head from an utterance's personalised frames to its attributes."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch
from jsonargparse.typing import ClosedUnitInterval, PositiveInt
from torch import Tensor, distributed, nn
from torch.distributed.nn.functional import all_reduce
from torch.nn import functional
from typing_extensions import override

from ser_personal.encoder.base import mean_pool
from ser_personal.errors import UserError, require_scale
from ser_personal.types import EncoderOutput


class Interpreter(nn.Module, ABC):
    """From personalised frames to one value per attribute; built once the encoder's width is known."""

    # whether it takes e_s beside the frames
    reads_speaker = False

    @abstractmethod
    def build(self, dim: int, outputs: int) -> None:
        """Make the layers for frames of width `dim` and that many attributes."""

    def check_label_scale(self, scale: tuple[float, float]) -> None:
        """Raise a UserError where labels on that scale may lie outside the predictions' range; here that is endless."""

    def start_from(self, label_means: Sequence[float]) -> None:
        """Set the last linear layer's bias: from 0, training by CCC stalls on labels of 1 to 7."""
        linear = [layer for layer in self.modules() if isinstance(layer, nn.Linear) and layer.bias is not None]
        layers = [layer for layer in linear if layer.out_features == len(label_means)]
        if not layers:
            what = "has no linear layer with a bias and an output for each attribute"
            raise UserError(what, where=type(self).__name__, remedy="Write its start_from(label_means)")
        with torch.no_grad():
            layers[-1].bias.copy_(torch.tensor(label_means))

    @abstractmethod
    def forward(self, output: EncoderOutput) -> Tensor:
        """Interpret an encoder's output, -> (batch, attributes)."""


class GlobalBatchNorm(nn.BatchNorm1d):
    """Batch normalisation by the statistics of all devices' batches, on CPUs too, unlike torch's SyncBatchNorm."""

    @override
    def forward(self, input: Tensor) -> Tensor:
        if not (self.training and distributed.is_available() and distributed.is_initialized()):
            return super().forward(input)
        count = all_reduce(torch.tensor(float(len(input)), device=input.device))
        mean = all_reduce(input.sum(0)) / count
        variance = all_reduce((input - mean).square().sum(0)) / count
        unbiased = variance * count / (count - 1).clamp(min=1)
        for running, now in ((self.running_mean, mean), (self.running_var, unbiased)):
            cast("Tensor", running).lerp_(now.detach(), cast("float", self.momentum))
        cast("Tensor", self.num_batches_tracked).add_(1)
        normed: Tensor = (input - mean) * torch.rsqrt(variance + self.eps) * self.weight + self.bias
        return normed


class MLPInterpreter(Interpreter):
    """The paper's interpreter: mean over real frames, then twice FC, ReLU, dropout, batch norm, then FC.

    Args:
        hidden_dims: width of each hidden layer.
        dropout: of each hidden layer.
    """

    def __init__(self, hidden_dims: tuple[PositiveInt, ...] = (128, 32), dropout: ClosedUnitInterval = 0.1) -> None:
        super().__init__()
        self.hidden_dims = hidden_dims
        self.dropout = dropout

    @override
    def build(self, dim: int, outputs: int) -> None:
        layers: list[nn.Module] = []
        for width in self.hidden_dims:
            layers += [nn.Linear(dim, width), nn.ReLU(), nn.Dropout(self.dropout), GlobalBatchNorm(width)]
            dim = width
        self.layers = nn.Sequential(*layers, nn.Linear(dim, outputs))

    @override
    def forward(self, output: EncoderOutput) -> Tensor:
        return cast("Tensor", self.layers(mean_pool(output)))


class DenseInterpreter(Interpreter):
    """Mean over real frames, then FC, tanh and FC, with dropout before each.

    Source: transformers' classification head, with which audeering's wav2vec2-large-robust-12-ft-emotion-msp-dim was
    fine-tuned (Wagner et al. 2023).

    Args:
        dropout: before each layer.
    """

    def __init__(self, dropout: ClosedUnitInterval = 0.1) -> None:
        super().__init__()
        self.dropout = dropout

    @override
    def build(self, dim: int, outputs: int) -> None:
        self.dense, self.out_proj = nn.Linear(dim, dim), nn.Linear(dim, outputs)

    @override
    def forward(self, output: EncoderOutput) -> Tensor:
        pooled = functional.dropout(mean_pool(output), self.dropout, self.training)
        hidden = functional.dropout(self.dense(pooled).tanh(), self.dropout, self.training)
        return cast("Tensor", self.out_proj(hidden))


class AttentiveStatisticsInterpreter(Interpreter):
    """Attentive statistics of the frames, then FC, layer norm and ReLU, then FC, with dropout before each.

    Mean and standard deviation of the frames, weighted by a learnt attention (Okabe et al. 2018), as in the baseline of
    the Odyssey 2024 challenge (Goncalves et al. 2024).

    Args:
        hidden_dims: width of each hidden layer.
        dropout: before each layer.
    """

    def __init__(self, hidden_dims: tuple[PositiveInt, ...] = (1024,), dropout: ClosedUnitInterval = 0.5) -> None:
        super().__init__()
        self.hidden_dims = hidden_dims
        self.dropout = dropout

    @override
    def build(self, dim: int, outputs: int) -> None:
        self.sap_linear = nn.Linear(dim, dim)
        self.attention = nn.Parameter(torch.randn(dim, 1))
        widths = [2 * dim, *self.hidden_dims]
        self.fc = nn.Sequential(
            *(
                nn.Sequential(nn.Linear(before, width), nn.LayerNorm(width), nn.ReLU(), nn.Dropout(self.dropout))
                for before, width in pairwise(widths)
            )
        )
        self.out = nn.Linear(widths[-1], outputs)

    @override
    def forward(self, output: EncoderOutput) -> Tensor:
        frames = output.frames
        scores = (self.sap_linear(frames).tanh() @ self.attention).masked_fill(
            ~output.frame_mask[..., None], -torch.inf
        )
        weights = scores.softmax(1)
        mean = (weights * frames).sum(1)
        # the mean of squares less the square of the mean, as theirs is written, loses digits
        variance = (weights * (frames - mean[:, None]).square()).sum(1)
        hidden = torch.cat([mean, variance.clamp(min=1e-5).sqrt()], dim=1)
        hidden = functional.dropout(hidden, self.dropout, self.training)
        return cast("Tensor", self.out(self.fc(hidden)))


class PointwiseInterpreter(Interpreter):
    """Three FC layers over each frame, mean over real frames, then for each attribute FC, ReLU, FC and a sigmoid.

    Source: the head of Vox-Profile's models of emotion attributes (Feng et al. 2025).

    Args:
        hidden_dim: width of the layers.
        scale: least and greatest label, between which the sigmoid keeps predictions.
        dropout: of the first two layers.
    """

    def __init__(
        self,
        hidden_dim: PositiveInt = 256,
        scale: tuple[float, float] = (1.0, 7.0),
        dropout: ClosedUnitInterval = 0.1,
    ) -> None:
        require_scale(scale)
        super().__init__()
        self.hidden_dim, self.scale, self.dropout = hidden_dim, scale, dropout

    @override
    def build(self, dim: int, outputs: int) -> None:
        width = self.hidden_dim
        layers: list[nn.Module] = []
        for before in (dim, width):
            layers += [nn.Linear(before, width), nn.ReLU(), nn.Dropout(self.dropout)]
        self.layers = nn.Sequential(*layers, nn.Linear(width, width))
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1)) for _ in range(outputs)
        )

    @override
    def check_label_scale(self, scale: tuple[float, float]) -> None:
        low, high = self.scale
        if min(scale) < low or max(scale) > high:
            what = f"labels are on a scale of {scale[0]:g} to {scale[1]:g}, predictions stay within {low:g} to {high:g}"
            remedy = "Give the least and the greatest label, such as --model.interpreter.scale '[1,5]'"
            raise UserError(what, where="--model.interpreter.scale", remedy=remedy)

    @override
    def start_from(self, label_means: Sequence[float]) -> None:
        low, high = self.scale
        for head, mean in zip(self.heads, label_means, strict=True):
            share = torch.tensor((mean - low) / (high - low)).clamp(0.01, 0.99)
            nn.init.constant_(cast("Tensor", cast("nn.Sequential", head)[-1].bias), share.logit().item())

    @override
    def forward(self, output: EncoderOutput) -> Tensor:
        pooled = mean_pool(output._replace(frames=self.layers(output.frames)))
        low, high = self.scale
        return low + (high - low) * torch.cat([head(pooled) for head in self.heads], dim=1).sigmoid()


class TransformerInterpreter(Interpreter):
    """Transformer layers over [learnt token; speaker token; frames], then FC of the learnt token's output. Ours.

    The speaker token is e_s, where the model has one, projected like a frame and known by its position, the first.

    Args:
        dim: width of the layers.
        layers: how many.
        heads: attention heads.
        dropout: of the layers.
        stride: frames that are averaged to one before the layers.
    """

    reads_speaker = True

    def __init__(
        self,
        dim: PositiveInt = 128,
        layers: PositiveInt = 2,
        heads: PositiveInt = 4,
        dropout: ClosedUnitInterval = 0.1,
        stride: PositiveInt = 4,
    ) -> None:
        if dim % heads or dim % 2:
            what = f"{dim} is odd, or {heads} heads don't divide it"
            raise UserError(what, where="dim", remedy="Give a multiple of heads and 2")
        super().__init__()
        self.dim, self.layers, self.heads, self.dropout, self.stride = dim, layers, heads, dropout, stride

    @override
    def build(self, dim: int, outputs: int) -> None:
        self.projection = nn.Linear(dim, self.dim)
        self.token = nn.Parameter(torch.randn(self.dim) / self.dim**0.5)
        layer = nn.TransformerEncoderLayer(
            self.dim, self.heads, 2 * self.dim, self.dropout, "gelu", batch_first=True, norm_first=True
        )
        self.transformer = nn.TransformerEncoder(
            layer, self.layers, norm=nn.LayerNorm(self.dim), enable_nested_tensor=False
        )
        self.last = nn.Linear(self.dim, outputs)

    @override
    def start_from(self, label_means: Sequence[float]) -> None:
        super().start_from(label_means)
        nn.init.zeros_(self.last.weight)

    @override
    def forward(self, output: EncoderOutput) -> Tensor:
        frames, frame_mask = average_frames(output.frames, output.frame_mask, self.stride)
        positions = sinusoids(frames.shape[1] + 1, self.dim).to(frames)
        tokens = [self.token.to(frames.dtype).expand(frames.shape[0], 1, -1), self.projection(frames) + positions[1:]]
        if output.speaker_embedding is not None:
            # the same projection: where nothing is fused, one of its own would be weights that no loss reaches
            speaker = self.projection(output.speaker_embedding.to(frames.dtype)) + positions[0]
            tokens.insert(1, speaker[:, None])
        mask = functional.pad(frame_mask, (len(tokens) - 1, 0), value=True)
        hidden = self.transformer(torch.cat(tokens, dim=1), src_key_padding_mask=~mask)
        return cast("Tensor", self.last(hidden[:, 0]))


def average_frames(frames: Tensor, frame_mask: Tensor, stride: int) -> tuple[Tensor, Tensor]:
    """Average every `stride` real frames of (batch, frames, dim), the last may be fewer; with the means' mask."""
    real = frame_mask[:, :, None].to(frames.dtype)
    sums, counts = (
        # a pool over more padding than it needs, since a length isn't known when a graph is exported
        functional.avg_pool1d(functional.pad(each.transpose(1, 2), (0, stride - 1)), stride).transpose(1, 2)
        for each in (frames * real, real)
    )
    return sums / counts.clamp(min=0.5 / stride), counts[:, :, 0] > 0


def sinusoids(positions: int, dim: int) -> Tensor:
    """Sinusoidal position embeddings (Vaswani et al. 2017), (positions, dim)."""
    rates = 10_000.0 ** (-torch.arange(0, dim, 2) / dim)
    angles = torch.arange(positions)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)
