"""Where the speaker embedding e_s is added to the frames, or else combined with them; each encoder calls it."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from typing_extensions import override

from ser_personal.types import FusionName


class Fusion(nn.Module):
    """How e_s, (batch, dim), is combined with frames, before or after the Transformer; this base leaves them unchanged.

    A `fixed` e_s isn't learnt, and is multiplied by each frame's root mean square (ours; not in Prefix).
    """

    def __init__(self, dim: int, *, fixed: bool = False) -> None:
        super().__init__()
        self.fixed = fixed

    def scaled_embedding(self, frames: Tensor, speaker_embedding: Tensor) -> Tensor:
        """What e_s adds to each of the frames, (batch, frames or 1, dim)."""
        each = speaker_embedding[:, None]
        return each * frames.detach().square().mean(-1, keepdim=True).sqrt() if self.fixed else each

    def before_transformer(self, hidden: Tensor, speaker_embedding: Tensor) -> Tensor:
        """Personalise the Transformer's input, (batch, frames, dim) -> (batch, frames or more, dim)."""
        return hidden

    def after_transformer(self, frames: Tensor, speaker_embedding: Tensor) -> Tensor:
        """Personalise the Transformer's output, back to (batch, frames, dim)."""
        return frames


class First(Fusion):
    """e_s is added after feature projection and masking (paper: First), before the positional convolution (ours)."""

    @override
    def before_transformer(self, hidden: Tensor, speaker_embedding: Tensor) -> Tensor:
        return hidden + self.scaled_embedding(hidden, speaker_embedding)


class Prefix(Fusion):
    """e_s is prepended to the Transformer's input sequence and its frame dropped from the output (paper: Prefix)."""

    @override
    def before_transformer(self, hidden: Tensor, speaker_embedding: Tensor) -> Tensor:
        return torch.cat([speaker_embedding[:, None].to(hidden.dtype), hidden], dim=1)

    @override
    def after_transformer(self, frames: Tensor, speaker_embedding: Tensor) -> Tensor:
        return frames[:, 1:]


class Concat(Fusion):
    """e_s is concatenated to every frame, and both are projected to `dim`, at the start as in Last (ours)."""

    def __init__(self, dim: int, *, fixed: bool = False) -> None:
        super().__init__(dim, fixed=fixed)
        self.projection = nn.Linear(2 * dim, dim)
        with torch.no_grad():
            self.projection.weight.copy_(torch.eye(dim).repeat(1, 2))
            self.projection.bias.zero_()

    @override
    def after_transformer(self, frames: Tensor, speaker_embedding: Tensor) -> Tensor:
        per_frame = self.scaled_embedding(frames, speaker_embedding).expand(-1, frames.shape[1], -1)
        projected: Tensor = self.projection(torch.cat([frames, per_frame.to(frames.dtype)], dim=-1))
        return projected


class Last(Fusion):
    """e_s is added to every frame after the last Transformer layer (paper: Last, equation 1)."""

    @override
    def after_transformer(self, frames: Tensor, speaker_embedding: Tensor) -> Tensor:
        return frames + self.scaled_embedding(frames, speaker_embedding)


class Personalization(NamedTuple):
    """Speaker embeddings e_s, (batch, dim), and the fusion to combine them by."""

    fusion: Fusion
    speaker_embedding: Tensor

    def before_transformer(self, hidden: Tensor) -> Tensor:
        """Personalise the Transformer's input."""
        return self.fusion.before_transformer(hidden, self.speaker_embedding)

    def after_transformer(self, frames: Tensor) -> Tensor:
        """Personalise the Transformer's output."""
        return self.fusion.after_transformer(frames, self.speaker_embedding)


UNPERSONALIZED = Personalization(Fusion(0), torch.empty(0))


def fuse(frames: Tensor, personalization: Personalization) -> Tensor:
    """Personalise frames without a Transformer: `first` is `last` here, and `prefix` changes no frame."""
    return personalization.after_transformer(personalization.before_transformer(frames))


def make_fusion(name: FusionName, dim: int, *, fixed: bool = False) -> Fusion:
    """Make the fusion of that name for an encoder of width `dim`, of e_s that are learnt or `fixed`."""
    fusions = {"none": Fusion, "first": First, "prefix": Prefix, "concat": Concat, "last": Last}
    return fusions[name](dim, fixed=fixed)
