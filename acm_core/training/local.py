"""Training at one site: some epochs over its films, the same numbers for the same (run, site, round)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from acm_core.config.sections import TrainingConfig
from acm_core.data.batches import evaluation_batches, training_batches
from acm_core.data.site_films import FilmSet
from acm_core.nn import Classifier
from acm_core.training.loss import masked_bce, masked_loss, orthogonality_penalty, proximal_penalty

_BFLOAT16_HARDWARE = ("amx_bf16", "avx512_bf16")


class TrainingDivergedError(RuntimeError):
    """The loss stopped being a finite number."""


@dataclass(frozen=True)
class Schedule:
    """Where some epochs stand in the whole run.

    Attributes:
        first: index of the first epoch, from 0.
        epochs: epochs to train now.
        total: epochs of the whole run, over which a cosine rate falls to zero.
    """

    first: int
    epochs: int
    total: int


@dataclass(frozen=True)
class Proximal:
    """FedProx: stay near the global model (parameter name → tensor on the training device)."""

    reference: Mapping[str, Tensor]
    mu: float


def learning_rate(config: TrainingConfig, progress: float) -> float:
    """The rate at `progress` (0 ≤ progress < 1 of the whole run)."""
    if config.schedule == "constant":
        return config.learning_rate
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


def autocast_dtype(config: TrainingConfig, device: torch.device) -> torch.dtype | None:
    """bfloat16 where asked for or, with `auto`, where the processor computes it in hardware; None for float32."""
    if config.precision == "float32":
        return None
    if config.precision == "bfloat16":
        return torch.bfloat16
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else None
    hardware = torch.cpu.get_capabilities()
    return torch.bfloat16 if any(hardware.get(name, False) for name in _BFLOAT16_HARDWARE) else None


def make_optimizer(model: torch.nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    """The run's optimiser, of what trains; norms and biases are not decayed."""
    trained = [p for p in model.parameters() if p.requires_grad]
    decayed = [p for p in trained if p.ndim > 1]
    kept = [p for p in trained if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": kept, "weight_decay": 0.0}]
    if config.optimizer == "sgd":
        return torch.optim.SGD(
            groups,
            lr=config.learning_rate,
            momentum=config.momentum,
            nesterov=config.momentum > 0,
            fused=True,
        )
    return torch.optim.AdamW(groups, lr=config.learning_rate, fused=True)


def train_epoch(
    model: Classifier,
    optimizer: torch.optim.Optimizer,
    films: FilmSet,
    config: TrainingConfig,
    *,
    epoch: int,
    total_epochs: int,
    seed: int,
    device: torch.device,
    proximal: Proximal | None = None,
    workers: int = 0,
) -> float:
    """Train one epoch in place and return its mean loss a film.

    Args:
        model: on `device`.
        epoch, total_epochs: the epoch's place in the whole run, for the schedule.
        seed: of the order of films and of the augmentation.
        workers: processes that make batches ahead; their number changes no result.

    Raises:
        TrainingDivergedError: the loss is not finite; the model is then worthless.
    """
    model.train()
    dtype = autocast_dtype(config, device)
    total = torch.zeros((), dtype=torch.float64, device=device)
    seen = 0
    for batch in training_batches(films, config.batch_size, seed, config.augment, workers):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config, (epoch + seen / len(films)) / total_epochs)
        images = batch[0].to(device, memory_format=torch.channels_last)
        labels = batch[1].to(device)
        with torch.autocast(device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None):
            output = model(images)
        loss = masked_loss(output.logits, labels, config.loss)
        loss = loss + config.orthogonality * orthogonality_penalty(output.orthogonality)
        if proximal is not None:
            loss = loss + proximal_penalty(model.named_parameters(), proximal.reference, proximal.mu)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]  # torch's own signature is untyped
        optimizer.step()
        total += loss.detach().double() * len(images)
        seen += len(images)
    mean = float(total) / max(seen, 1)
    if not math.isfinite(mean):
        raise TrainingDivergedError(
            "expected a finite loss: lower training.learning_rate or train in float32"
        )
    return mean


def train(
    model: Classifier,
    optimizer: torch.optim.Optimizer,
    films: FilmSet,
    config: TrainingConfig,
    schedule: Schedule,
    *,
    seeds: Callable[[int], int],
    device: torch.device,
    proximal: Proximal | None = None,
    workers: int = 0,
) -> float:
    """Train `schedule.epochs` epochs; the mean loss of the last one is returned.

    Args:
        optimizer: of `model`; goes on from the state that it has.
        seeds: epoch index → seed of that epoch.
        workers: as in `train_epoch`.
    """
    loss = 0.0
    for epoch in range(schedule.first, schedule.first + schedule.epochs):
        loss = train_epoch(
            model,
            optimizer,
            films,
            config,
            epoch=epoch,
            total_epochs=schedule.total,
            seed=seeds(epoch),
            device=device,
            proximal=proximal,
            workers=workers,
        )
    return loss


@torch.no_grad()
def predict(
    model: Classifier, films: FilmSet, batch_size: int, device: torch.device
) -> tuple[NDArray[np.float32], float]:
    """Probabilities (N×F, in the films' order) and the mean masked BCE of a model in evaluation mode.

    Always in float32: bfloat16 scores tie so often that the AUROC would be coarse.
    """
    model.eval()
    probabilities: list[Tensor] = []
    total, labelled = 0.0, 0
    for images, labels in evaluation_batches(films, batch_size):
        logits = model(images.to(device, memory_format=torch.channels_last)).logits.cpu()
        count = int((~torch.isnan(labels)).sum())
        total += float(masked_bce(logits, labels)) * count
        labelled += count
        probabilities.append(torch.sigmoid(logits))
    return torch.cat(probabilities).numpy(), total / max(labelled, 1)


@contextmanager
def deterministic_kernels() -> Iterator[None]:
    """cuDNN picks the same kernel every time inside; the setting is put back after."""
    deterministic, benchmark = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    try:
        yield
    finally:
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = deterministic, benchmark
