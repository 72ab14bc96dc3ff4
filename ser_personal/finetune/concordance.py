"""The concordance correlation coefficient (CCC), and what fine-tuning for emotion attributes minimises."""

from abc import ABC, abstractmethod

import torch
from numpy.typing import ArrayLike
from torch import Tensor, distributed, nn
from torch.distributed.nn.functional import all_gather
from torch.nn.functional import pad
from typing_extensions import override

from ser_personal.errors import UserError

_MIN_DENOMINATOR = 1e-8


def ccc(predictions: Tensor | ArrayLike, labels: Tensor | ArrayLike) -> Tensor:
    r"""Concordance correlation coefficient, by the population formula (Lin 1989; variances divide by n, not n - 1).

    .. math::

        \mathrm{CCC}(x, y) = \frac{2 \, \mathrm{cov}(x, y)}{\sigma_x^2 + \sigma_y^2 + (\mu_x - \mu_y)^2}

    Args:
        predictions: (n,) or (n, attributes), label points; half precision is computed in float32.
        labels: the same shape.

    Returns:
        Scalar, or (attributes,). NaN where it is undefined, 0 / 0: no utterance at all, or predictions and labels all
        equal to one value. Constant predictions elsewhere, and a single utterance, score 0, as the formula has it.
    """
    numerator, denominator = _concordance(*_checked(torch.as_tensor(predictions), torch.as_tensor(labels)))
    return numerator / denominator


def ccc_loss(predictions: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean of 1 - CCC over attributes (paper, fine-tuning), a scalar, finite with finite gradients for any batch.

    Missing labels (NaN) are left out attribute by attribute. An attribute without a label in the batch is left out of
    the mean; without any label at all the loss is 0. Where the CCC is undefined the attribute adds a
    constant 1, without a gradient, as for a single utterance (all ours).

    Args:
        predictions: (n,) or (n, attributes), label points; half precision is computed in float32.
        labels: the same shape, NaN where missing.
        weights: (n,), what each utterance counts in means, variances and covariance, not below 0; all alike if None.
    """
    predictions, labels = _checked(predictions, labels)
    if predictions.ndim == 1:
        predictions, labels = predictions[:, None], labels[:, None]
    labelled = ~labels.isnan()
    if weights is not None:
        weights = weights.to(labels.dtype)
        labelled &= (weights > 0)[:, None]
    losses = []
    for attribute in torch.nonzero(labelled.any(dim=0)).flatten().tolist():
        rows = labelled[:, attribute]
        counts = None if weights is None else weights[rows]
        numerator, denominator = _concordance(predictions[rows, attribute], labels[rows, attribute], counts)
        losses.append(1 - numerator / denominator.clamp_min(_MIN_DENOMINATOR))
    # an empty selection sums to 0 and still leads backwards, so that DDP finds a gradient for every weight
    return torch.stack(losses).mean() if losses else predictions[labelled].sum()


def _concordance(predictions: Tensor, labels: Tensor, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Numerator and denominator of the CCC along the first dimension, each (...); with `weights` (n,) of (n,) alone.

    The first row is subtracted before any mean is taken, so that constant columns have a deviation of exactly 0.
    """
    if len(predictions) == 0:
        nothing = (predictions * labels).sum(dim=0)
        return nothing, nothing

    def mean(values: Tensor) -> Tensor:
        return values.mean(dim=0) if weights is None else (values * weights).sum(dim=0) / weights.sum()

    first_prediction, first_label = predictions[0], labels[0]
    predictions, labels = predictions - first_prediction, labels - first_label
    prediction_mean, label_mean = mean(predictions), mean(labels)
    predictions, labels = predictions - prediction_mean, labels - label_mean
    distance = (first_prediction - first_label) + (prediction_mean - label_mean)
    variances = mean(predictions.square()) + mean(labels.square())
    return 2 * mean(predictions * labels), variances + distance.square()


def _checked(predictions: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    if predictions.shape != labels.shape or predictions.ndim not in {1, 2}:
        what = f"predictions {tuple(predictions.shape)} and labels {tuple(labels.shape)} don't match"
        raise UserError(what, where="CCC", remedy="Give both as (n,) or both as (n, attributes)")
    dtype = torch.promote_types(torch.promote_types(predictions.dtype, labels.dtype), torch.float32)
    return predictions.to(dtype), labels.to(dtype)


class EmotionLoss(nn.Module, ABC):
    """From predictions and labels of a batch to a scalar; finite with finite gradients for any batch."""

    @abstractmethod
    def forward(self, predictions: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
        """Compare predictions and labels (batch, attributes), NaN where missing; `weights` (batch,) are counts."""


class CCCLoss(EmotionLoss):
    """The mean of 1 - CCC over attributes (paper)."""

    @override
    def forward(self, predictions: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
        return ccc_loss(predictions, labels, weights)


class MSELoss(EmotionLoss):
    """The mean squared error of each attribute, averaged over attributes."""

    @override
    def forward(self, predictions: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
        labelled = ~labels.isnan()
        # errors, not predictions, are set to 0: a NaN of either has no gradient then
        return labelled_mean((predictions - labels).where(labelled, 0).square(), labelled, weights)


class GlobalBatchLoss(EmotionLoss):
    """A loss over the batches of all devices as if they were one, from which a CCC of small batches gains (ours).

    Args:
        loss: which one; the paper's 1 - CCC if None.
    """

    def __init__(self, loss: EmotionLoss | None = None) -> None:
        super().__init__()
        self.loss = loss or CCCLoss()

    @override
    def forward(self, predictions: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
        gathered = None if weights is None else gather_rows(weights[:, None])[:, 0]
        loss: Tensor = self.loss(gather_rows(predictions), gather_rows(labels), gathered)
        return loss


def labelled_mean(losses: Tensor, labelled: Tensor, weights: Tensor | None = None) -> Tensor:
    """Average losses (batch, columns) over each column's labelled utterances, then over columns with some; else 0."""
    counts = labelled.to(torch.promote_types(losses.dtype, torch.float32))
    if weights is not None:
        counts = counts * weights[:, None]
    totals = counts.sum(0)
    means = (losses * counts).sum(0) / totals.where(totals > 0, 1)
    return means.sum() / (totals > 0).sum().clamp(min=1)


def gather_rows(rows: Tensor) -> Tensor:
    """Join the rows of all processes, in the order of ranks; the rows themselves where there is one process.

    Rows are (n, columns); n may differ between processes and be 0. On their way back the gradients of all processes are
    added up: each computes the same loss of all rows, and the mean which DDP takes is that loss's gradient.
    """
    if not (distributed.is_available() and distributed.is_initialized()) or distributed.get_world_size() == 1:
        return rows
    sizes = [torch.zeros(1, dtype=torch.int64, device=rows.device) for _ in range(distributed.get_world_size())]
    distributed.all_gather(sizes, torch.tensor([len(rows)], device=rows.device))
    counts = torch.cat(sizes).tolist()
    # a collective takes equal shapes only
    padded = all_gather(pad(rows, (0, 0, 0, max(counts) - len(rows))))
    return torch.cat([part[:count] for part, count in zip(padded, counts, strict=True)])
