"""Learning from films without labels: VICReg (Bardes, Ponce and LeCun, ICLR 2022, arXiv 2105.04906).

Two views of a film shall have the same embedding (invariance), each number of the embedding shall vary over films
(variance), and no two shall say the same (covariance). It needs neither pairs of unlike films, so that batches may be
small, nor a second network. Views are parts of the film with other grey levels, never mirrored: the side matters.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from acm_core.config.sections import TrainingConfig
from acm_core.data.batches import view_batches
from acm_core.data.site_films import FilmSet
from acm_core.nn import Classifier
from acm_core.randomness import stream_seed
from acm_core.training.local import TrainingDivergedError, autocast_dtype, learning_rate
from acm_core.training.loss import orthogonality_penalty

# The paper's weights.
_INVARIANCE, _VARIANCE, _COVARIANCE = 25.0, 25.0, 1.0
_EPSILON = 1e-4
# Small against the paper's 8192: a covariance of so many numbers cannot be told from batches of some dozens of films.
_EMBEDDING = 256


class Vicreg(NamedTuple):
    """The three terms without their weights, scalars."""

    invariance: Tensor
    variance: Tensor
    covariance: Tensor

    @property
    def loss(self) -> Tensor:
        """Their weighted sum."""
        return _INVARIANCE * self.invariance + _VARIANCE * self.variance + _COVARIANCE * self.covariance


def vicreg(one: Tensor, other: Tensor) -> Vicreg:
    """Terms of embeddings of two views of the same films, each B×D with B ≥ 2, in their order."""
    return Vicreg(
        F.mse_loss(one, other),
        (_variance(one) + _variance(other)) / 2,
        _covariance(one) + _covariance(other),
    )


def _variance(embeddings: Tensor) -> Tensor:
    """How much the standard deviation of each number lacks to 1, on average."""
    return F.relu(1 - (embeddings.var(0) + _EPSILON).sqrt()).mean()


def _covariance(embeddings: Tensor) -> Tensor:
    """Squared covariances of different numbers, by number."""
    films, numbers = embeddings.shape
    centred = embeddings - embeddings.mean(0)
    covariance = centred.T @ centred / (films - 1)
    return (covariance.square().sum() - covariance.diagonal().square().sum()) / numbers


class SelfSupervised(nn.Module):
    """A classifier's trunk with an expander behind it, which is thrown away after training.

    Args:
        model: its trunk learns, its head does not.
        seed: of the expander's weights; torch's global random state is left as it was.
    """

    def __init__(self, model: Classifier, seed: int) -> None:
        super().__init__()
        self.model = model
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(stream_seed(seed, "expander"))
            self.expander = nn.Sequential(
                nn.Linear(model.channels, _EMBEDDING),
                nn.BatchNorm1d(_EMBEDDING),
                nn.ReLU(),
                nn.Linear(_EMBEDDING, _EMBEDDING),
            )

    def forward(self, films: Tensor) -> tuple[Tensor, Tensor]:
        """Films B×1×S×S (normalised) → embeddings B×256 in float32, orthogonality B."""
        maps, orthogonality = self.model.features(films)
        with torch.autocast(films.device.type, enabled=False):
            embeddings: Tensor = self.expander(maps.float().mean((2, 3)))
        return embeddings, orthogonality


def train_epoch_without_labels(
    learner: SelfSupervised,
    optimizer: torch.optim.Optimizer,
    films: FilmSet,
    config: TrainingConfig,
    *,
    epoch: int,
    total_epochs: int,
    seed: int,
    device: torch.device,
    workers: int = 0,
) -> float:
    """Train one epoch in place and return its mean loss a film; arguments as `train_epoch`.

    Raises:
        ValueError: fewer than two films: nothing varies.
        TrainingDivergedError: the loss is not finite.
    """
    if len(films) < 2:
        raise ValueError(f"expected at least two films, got {len(films)}")
    learner.train()
    dtype = autocast_dtype(config, device)
    total = torch.zeros((), dtype=torch.float64, device=device)
    seen = 0
    for views in view_batches(films, max(config.batch_size, 2), seed, workers):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config, (epoch + seen / len(films)) / total_epochs)
        with torch.autocast(device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None):
            (one, first), (other, second) = (
                learner(view.to(device, memory_format=torch.channels_last)) for view in views
            )
        loss = vicreg(one, other).loss
        loss = loss + config.orthogonality * orthogonality_penalty(torch.cat([first, second]))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]  # torch's own signature is untyped
        optimizer.step()
        total += loss.detach().double() * len(one)
        seen += len(one)
    mean = float(total) / seen
    if not math.isfinite(mean):
        raise TrainingDivergedError(
            "expected a finite loss: lower training.learning_rate or train in float32"
        )
    return mean
