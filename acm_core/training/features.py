"""What a trunk says of films, a vector a film: for heads on frozen trunks, and for judging a start."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from acm_core.data.batches import evaluation_batches
from acm_core.data.site_films import FilmSet
from acm_core.nn import Classifier


@torch.no_grad()
def pooled_features(
    model: Classifier, films: FilmSet, batch_size: int, device: torch.device
) -> NDArray[np.float32]:
    """Features of the last stage, averaged over positions: N×C, in the films' order.

    In evaluation mode, without augmentation and in float32, so that a film has the same features whatever films are
    beside it. The model's modes stay as they are.

    Args:
        model: on `device`.
        batch_size: films computed at a time; changes the result by rounding at most.
    """
    rows = np.empty((len(films), model.channels), np.float32)
    modes = {module: module.training for module in model.modules()}
    done = 0
    try:
        model.eval()
        for images, _ in evaluation_batches(films, batch_size):
            maps, _ = model.features(images.to(device, memory_format=torch.channels_last))
            rows[done : done + len(images)] = maps.mean((2, 3)).cpu().numpy()
            done += len(images)
    finally:
        for module, mode in modes.items():
            module.training = mode
    return rows
