"""Normalisation for the films of one hospital: batch statistics measured anew on films that need no labels.

Adaptive batch normalisation (Li et al. 2017, arXiv:1603.04779); as the only part of a federated model that differs
between hospitals: Andreux et al. 2020 (SiloBN, arXiv:2008.07424).
"""

from __future__ import annotations

import torch
from torch import nn

from acm_core.data.batches import training_batches
from acm_core.data.site_films import FilmSet
from acm_core.nn import Classifier

_BATCH = 64
FEWEST_FILMS = 16
"""Below this the statistics of so few films are worse than others'."""


def estimate_statistics(model: Classifier, films: FilmSet, device: torch.device) -> bool:
    """Measure the running statistics of the model's batch normalisation on these films, in place.

    Each layer's mean and variance become the average over batches of 64 films, in a fixed order, as training sees them.
    Weights stay as they are, and so does a layer that the model keeps frozen. The model is left in evaluation mode.

    Args:
        model: on `device`.
        films: their labels are not looked at.

    Returns:
        Whether anything was measured: not with fewer than 16 films, nor where no layer has statistics that train.
    """
    model.train()
    layers = [layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d) and layer.training]
    measured = bool(layers) and len(films) >= FEWEST_FILMS
    if measured:
        momenta = [layer.momentum for layer in layers]
        for layer in layers:
            layer.reset_running_stats()
            layer.momentum = None  # a plain average
        with torch.no_grad():
            for images, _ in training_batches(films, _BATCH, seed=0, augment=False):
                model(images.to(device, memory_format=torch.channels_last))
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
    model.eval()
    return measured
