"""HuBERT's masked prediction: which cluster does a hidden frame belong to?"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional

from ser_personal.errors import UserError
from ser_personal.types import NO_PSEUDO_LABEL

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Self

    from torch import Tensor


class PredictionHead(nn.Module):
    """Scores every cluster for a frame: cosine between the projected frame and the cluster's embedding / temperature.

    The cosines are one product of normalised matrices, (n, final_dim) by (final_dim, clusters): fairseq and torchaudio
    reach the same numbers through an expanded (clusters, n, final_dim) tensor.

    Source: fairseq's HuBERT (`final_proj`, `label_embs_concat`, `compute_nce`), initialised alike.

    Args:
        dim: width of the frames.
        num_clusters: size of the codebook.
        final_dim: width in which frames and clusters are compared; 256 in HuBERT-base, 768 in large.
        temperature: divides the cosines.
    """

    def __init__(self, dim: int, num_clusters: int, final_dim: int = 256, temperature: float = 0.1) -> None:
        super().__init__()
        self.temperature = temperature
        self.final_proj = nn.Linear(dim, final_dim)
        self.label_embeddings = nn.Parameter(torch.empty(num_clusters, final_dim).uniform_())

    @classmethod
    def load_released(cls, path: str | Path) -> Self:
        """Build the head of a released checkpoint from what `ser import` wrote.

        Raises:
            UserError: no such file, or no prediction head in it.
        """
        try:
            weights = load_file(path)
            head = cls(weights["final_proj.weight"].shape[1], *weights["label_embeddings"].shape)
            head.load_state_dict(weights)
        except (OSError, SafetensorError, KeyError, IndexError, TypeError, RuntimeError) as error:
            remedy = "`ser import CHECKPOINT --out FOLDER` writes one as FOLDER/prediction_head.safetensors"
            raise UserError("not a prediction head", where=path, remedy=remedy) from error
        return head

    def forward(self, frames: Tensor) -> Tensor:
        """Score the clusters, in float32 whatever autocast says: bfloat16 can't tell close cosines apart.

        Args:
            frames: (n, dim).

        Returns:
            logits (n, clusters).
        """
        with torch.autocast(frames.device.type, enabled=False):
            projected = self.final_proj(frames.to(self.final_proj.weight.dtype)).float()
            clusters = functional.normalize(self.label_embeddings.float(), dim=1)
            return functional.normalize(projected, dim=1) @ clusters.T / self.temperature


class MaskedPredictionLoss(NamedTuple):
    """What masked prediction made of a batch: sums, so that devices and batches add up.

    Attributes:
        loss: scalar, cross-entropy in nats summed over masked frames.
        masked: scalar, number of masked frames.
        correct: scalar, how many of them got their own cluster.
        predicted: (masked,), the likeliest cluster of each.
    """

    loss: Tensor
    masked: Tensor
    correct: Tensor
    predicted: Tensor


def masked_prediction_loss(
    frames: Tensor, pseudo_labels: Tensor, time_mask: Tensor, head: PredictionHead
) -> MaskedPredictionLoss:
    """Sum the cross-entropy of the pseudo-labels over masked frames alone (paper, section 2).

    Args:
        frames: (batch, frames, dim), already personalised.
        pseudo_labels: (batch, frames); masked frames at -100 are left out.
        time_mask: (batch, frames), True on masked frames; on any device.
        head: scores the clusters.

    Returns:
        Sums over the batch; with nothing masked a loss of 0 that still reaches every parameter.
    """
    # found on the mask's own device: on the CPU, nothing waits for that of the frames
    chosen = time_mask.flatten().nonzero()[:, 0].to(frames.device, non_blocking=True)
    wanted = pseudo_labels.flatten()[chosen]
    logits = head(frames.flatten(0, 1)[chosen])
    predicted = logits.argmax(dim=1)
    return MaskedPredictionLoss(
        loss=functional.cross_entropy(logits, wanted, reduction="sum", ignore_index=NO_PSEUDO_LABEL),
        masked=(wanted != NO_PSEUDO_LABEL).sum(),
        correct=(predicted == wanted).sum(),
        predicted=predicted,
    )
