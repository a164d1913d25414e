"""What a small head learns from under noise: a film's features, centred, cut to few axes and scaled to unit length."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

_SMALLEST_LENGTH = 1e-12


class Projection(nn.Module):
    """u(x) = P(m − c) / ‖P(m − c)‖, m the mean of a film's features over positions.

    Centre c and axes P come with the start, from films that are nobody's secret (`fit_projection`), and never train.
    With a constant 1 for the bias a film's vector has length √2, so that no gradient of a head behind it is longer than
    √2 times the loss' slope: noise hides a length that is known, and nothing need be clipped.

    A fresh one has the centre 0 and random orthonormal axes; weights are drawn from torch's global generator.

    Args:
        channels: C of the trunk's last stage.
        dimensions: D ≤ C, axes kept.

    Raises:
        ValueError: D > C.
    """

    centre: Tensor
    axes: Tensor

    def __init__(self, channels: int, dimensions: int) -> None:
        super().__init__()
        if dimensions > channels:
            raise ValueError(
                f"expected model.dimensions of at most {channels}, the trunk's channels, got {dimensions}"
            )
        self.register_buffer("centre", torch.zeros(channels))
        self.register_buffer("axes", nn.init.orthogonal_(torch.empty(dimensions, channels)))

    def forward(self, features: Tensor) -> Tensor:
        """Maps B×C×h×w → B×D×h×w, whose mean over positions is u: each position's part of it.

        The length is that of the whole film's vector, so that the maps of one film can be compared with each other and
        add up to what the head sees.
        """
        maps = F.conv2d(features - self.centre[:, None, None], self.axes[:, :, None, None])
        length = torch.linalg.vector_norm(maps.mean((2, 3), keepdim=True), dim=1, keepdim=True)
        unit: Tensor = maps / length.clamp(min=_SMALLEST_LENGTH)
        return unit


def fit_projection(
    features: NDArray[np.float32], dimensions: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Centre c (C) and axes P (D×C) of films' features: the D directions in which they vary most (PCA).

    Args:
        features: N×C, of public films; labels are not needed.
        dimensions: D.

    Raises:
        ValueError: there are too few films or channels for so many axes.
    """
    films, channels = features.shape
    if not 1 <= dimensions <= min(films - 1, channels):
        raise ValueError(
            f"expected at least {dimensions + 1} films and {dimensions} channels for {dimensions} axes, got {films} "
            f"and {channels}: take more films, or a smaller model.dimensions"
        )
    values = features.astype(np.float64)
    centre = values.mean(0)
    _, _, axes = np.linalg.svd((values - centre) / math.sqrt(films), full_matrices=False)
    axes = axes[:dimensions]
    # An axis has no sign of its own; this one does not depend on the library.
    axes *= np.where(axes[np.arange(dimensions), np.abs(axes).argmax(1)] < 0, -1.0, 1.0)[:, None]
    return centre.astype(np.float32), axes.astype(np.float32)
