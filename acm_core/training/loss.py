"""The training loss: logistic or least squares where a film is labelled, plus the orthogonality term."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from acm_core.config.sections import Loss


def masked_bce(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean binary cross-entropy over the labelled entries (scalar, in logits' float32).

    Args:
        logits: B×F.
        labels: B×F, 1, 0 or NaN for "not labelled", which contributes neither loss nor gradient.

    Returns:
        A scalar; exactly 0 (with zero gradients) when nothing is labelled.
    """
    return masked_loss(logits, labels, "logistic")


def masked_loss(logits: Tensor, labels: Tensor, kind: Loss) -> Tensor:
    """`masked_bce`, or with `least_squares` half the squared distance of a logit from 1 for present, −1 for absent."""
    losses, labelled = _entry_losses(logits.float(), labels, kind)
    return losses.sum() / labelled.sum().clamp(min=1)


def film_losses(
    logits: Tensor, labels: Tensor, orthogonality: Tensor, weight: float, kind: Loss = "logistic"
) -> Tensor:
    """A loss a film that no other film enters (B): what private training needs, where `masked_bce` averages over all.

    Mean loss over the film's own labelled findings, plus `weight` times |its orthogonality term|.

    Args:
        logits: B×F.
        labels: B×F, 1, 0 or NaN.
        orthogonality: B.
        kind: as in `masked_loss`.
    """
    losses, labelled = _entry_losses(logits, labels, kind)
    return losses.sum(1) / labelled.sum(1).clamp(min=1) + weight * orthogonality.abs()


def _entry_losses(logits: Tensor, labels: Tensor, kind: Loss) -> tuple[Tensor, Tensor]:
    """B×F, 0 where nothing is labelled, and where something is."""
    labelled = ~torch.isnan(labels)
    targets = torch.where(labelled, labels, torch.zeros_like(labels)).to(logits.dtype)
    if kind == "logistic":
        losses = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    else:
        losses = 0.5 * (logits - (2 * targets - 1)).square()
    return torch.where(labelled, losses, torch.zeros_like(losses)), labelled


def orthogonality_penalty(orthogonality: Tensor) -> Tensor:
    """|mean over the batch of Σ over layers| (ACM paper, section 3.3); `orthogonality` has shape B."""
    return orthogonality.float().mean().abs()


def proximal_penalty(
    parameters: Iterable[tuple[str, Tensor]], reference: Mapping[str, Tensor], mu: float
) -> Tensor:
    """FedProx's μ/2·‖w − w_global‖² over the parameters named in `reference` (Li et al., MLSys 2020)."""
    squares = [torch.sum((p - reference[name]) ** 2) for name, p in parameters if name in reference]
    return 0.5 * mu * torch.stack(squares).sum()
