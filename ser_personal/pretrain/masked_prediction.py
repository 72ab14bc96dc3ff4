"""HuBERT's masked prediction: the mask spans, the prediction head, the loss over masked frames, and its metric."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat
from typing_extensions import override

from ser_personal.types import NO_PSEUDO_LABEL


class PredictionHead(nn.Module):
    """Scores every cluster for a frame: cosine between the projected frame and the cluster's embedding / temperature.

    Source: fairseq's HuBERT (`final_proj`, `label_embs_concat`, `compute_nce`), initialised alike. Frames and clusters
    are compared in `final_dim` dimensions: 256 in HuBERT-base, 768 in large.
    """

    def __init__(self, dim: int, num_clusters: int, final_dim: int = 256, temperature: float = 0.1) -> None:
        super().__init__()
        self.temperature = temperature
        self.final_proj = nn.Linear(dim, final_dim)
        self.label_embeddings = nn.Parameter(torch.empty(num_clusters, final_dim).uniform_())

    @override
    def forward(self, frames: Tensor) -> Tensor:
        """(n, dim) -> logits (n, clusters), in float32 under autocast too: bfloat16 can't tell close cosines apart."""
        with torch.autocast(frames.device.type, enabled=False):
            projected = self.final_proj(frames.to(self.final_proj.weight.dtype)).float()
            clusters = functional.normalize(self.label_embeddings.float(), dim=1)
            return functional.normalize(projected, dim=1) @ clusters.T / self.temperature


class MaskedPredictionLoss(NamedTuple):
    """Sums over the masked frames of a batch, so that devices and batches add up; the loss is in nats."""

    loss: Tensor
    masked: Tensor
    correct: Tensor
    # the likeliest cluster of every masked frame, those without a pseudo-label too
    predicted: Tensor


def masked_prediction_loss(
    frames: Tensor, pseudo_labels: Tensor, time_mask: Tensor, head: PredictionHead
) -> MaskedPredictionLoss:
    """Sum the cross-entropy of the pseudo-labels over masked frames alone (paper, section 2).

    With nothing masked the loss is 0, with gradients of 0.

    Args:
        frames: (batch, frames, dim), already personalised.
        pseudo_labels: (batch, frames); masked frames at -100 are left out.
        time_mask: (batch, frames), as `span_mask` draws it, on any device.
        head: scores the clusters.
    """
    # `nonzero` waits for its result: of a mask on the CPU, not for the GPU that has the frames
    chosen = time_mask.flatten().nonzero()[:, 0].to(frames.device, non_blocking=True)
    targets = pseudo_labels.flatten()[chosen]
    logits = head(frames.flatten(0, 1)[chosen])
    predicted = logits.argmax(dim=1)
    return MaskedPredictionLoss(
        loss=functional.cross_entropy(logits, targets, reduction="sum", ignore_index=NO_PSEUDO_LABEL),
        masked=(targets != NO_PSEUDO_LABEL).sum(),
        correct=(predicted == targets).sum(),
        predicted=predicted,
    )


def span_mask(
    lengths: Tensor,
    prob: float = 0.8,
    length: int = 10,
    min_masks: int = 2,
    generator: Generator | None = None,
) -> Tensor:
    """Draw spans of masked frames for each row, none of them on padding.

    A row of n frames gets max(min_masks, floor(prob * n / length + u)) spans with u uniform in [0, 1). Their starts are
    drawn without replacement; spans may overlap, which leaves the masked share well below `prob`. A row too short for
    its spans gets shorter ones, and at last fewer. The last frame of any row stays unmasked.

    Source: fairseq's `compute_mask_indices`, static lengths with overlap. We depart from it in two places: rows aren't
    thinned to the batch's smallest number of masked frames, and a short row is never masked whole.

    Args:
        lengths: (batch,), real frames of each row, on any device.
        prob: spans times their length, as a share of the row.
        length: frames of a span.
        min_masks: least number of spans of a row.
        generator: source of random numbers, on the CPU or on the device of `lengths`; torch's own if None.

    Returns:
        (batch, max frames), True on masked frames.
    """
    frames = int(lengths.max())
    batch, device = len(lengths), lengths.device
    source = device if generator is None else generator.device
    random_rounding = torch.rand(batch, generator=generator, device=source).to(device)
    scores = torch.rand(batch, frames, generator=generator, device=source).to(device)

    spans = (prob * lengths / length + random_rounding).long().clamp(min=min_masks).minimum(lengths - 1).clamp(min=0)
    span_length = (lengths - spans).clamp(max=length)
    starts_allowed = torch.arange(frames, device=device) < (lengths - span_length)[:, None]
    most = int(spans.max())
    starts = scores.masked_fill(~starts_allowed, -1.0).topk(most, dim=1).indices
    drawn = (torch.arange(most, device=device) < spans[:, None]).int()

    edges = torch.zeros(batch, frames + 1, dtype=torch.int, device=device)
    edges.scatter_add_(1, starts, drawn)
    edges.scatter_add_(1, (starts + span_length[:, None]).clamp(max=frames), -drawn)
    return edges.cumsum(1)[:, :frames] > 0


class MaskedPredictionMetric(Metric):
    """Means over the masked frames of batches and devices, and the share of clusters that were predicted at least once.

    Samplers repeat whole batches so that devices get equal numbers of them: those of one key count once.
    """

    full_state_update = False
    keys: list[Tensor]
    losses: list[Tensor]
    masked: list[Tensor]
    correct: list[Tensor]
    counts: Tensor

    def __init__(self, num_clusters: int) -> None:
        super().__init__()
        for name in ("keys", "losses", "masked", "correct"):
            self.add_state(name, default=[], dist_reduce_fx="cat")
        self.add_state("counts", torch.zeros(num_clusters), dist_reduce_fx="sum")

    @override
    def update(self, prediction: MaskedPredictionLoss, key: int) -> None:
        self.keys.append(torch.tensor([key], device=self.device))
        self.losses.append(prediction.loss.detach().view(1))
        self.masked.append(prediction.masked.view(1))
        self.correct.append(prediction.correct.view(1))
        self.counts += torch.bincount(prediction.predicted, minlength=len(self.counts))

    @override
    def compute(self) -> dict[str, Tensor]:
        keys: list[int] = dim_zero_cat(self.keys).tolist()
        once = [keys.index(key) for key in dict.fromkeys(keys)]
        masked = dim_zero_cat(self.masked)[once].sum().clamp(min=1)
        return {
            "loss": dim_zero_cat(self.losses)[once].sum() / masked,
            "accuracy": dim_zero_cat(self.correct)[once].sum() / masked,
            "codebook_usage": (self.counts > 0).float().mean(),
        }
