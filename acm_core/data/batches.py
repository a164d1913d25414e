"""Batches for training and evaluation from prepared films: seeded order, seeded augmentation."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from math import radians

import numpy as np
import torch
from torch import Tensor

from acm_core.data.quiet import without_warnings
from acm_core.data.site_films import FilmSet

with without_warnings():  # MONAI's optional dependencies announce themselves
    from monai.networks.layers.spatial_transforms import AffineTransform

# Films in [0, 1] to about zero mean and unit spread. Constants: a site's own statistics would leave with the model.
_MEAN, _SPREAD = 0.5, 0.25

_ROTATION = radians(7.0)
_SHIFT = 0.05  # of the film's half side
_SCALE = 0.1
_GAMMA = 0.2
_CONTRAST = 0.1

Batch = tuple[Tensor, Tensor]


def training_batches(films: FilmSet, batch_size: int, seed: int, augment: bool) -> Iterator[Batch]:
    """One epoch in random order, the same for the same seed.

    A remainder of one film joins the batch before it: batch normalisation cannot work on one value a channel.

    Yields:
        Images float32 B×1×S×S, normalised; labels float32 B×F with NaN for "not labelled".
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(films))
    bounds = [*range(0, len(order), batch_size), len(order)]
    if len(order) > batch_size and len(order) % batch_size == 1:
        del bounds[-2]
    for start, end in pairwise(bounds):
        images, labels = _load(films, order[start:end])
        yield _normalise(_augment(images, rng) if augment else images), labels


def evaluation_batches(films: FilmSet, batch_size: int) -> Iterator[Batch]:
    """The films in order, as `training_batches` without augmentation."""
    for start in range(0, len(films), batch_size):
        images, labels = _load(films, np.arange(start, min(start + batch_size, len(films))))
        yield _normalise(images), labels


def _load(films: FilmSet, rows: np.ndarray) -> Batch:
    images = torch.from_numpy(films.images[rows].astype(np.float32))[:, None]
    return images, torch.from_numpy(films.labels[rows])


def _augment(images: Tensor, rng: np.random.Generator) -> Tensor:
    """Small rotation, shift, scale, gamma and contrast, one draw a film. No flips: the side matters."""
    films = len(images)
    angle = rng.uniform(-_ROTATION, _ROTATION, films)
    scale = 1 + rng.uniform(-_SCALE, _SCALE, films)
    theta = np.zeros((films, 2, 3), np.float32)
    theta[:, 0, 0] = theta[:, 1, 1] = scale * np.cos(angle)
    theta[:, 0, 1], theta[:, 1, 0] = -scale * np.sin(angle), scale * np.sin(angle)
    theta[:, :, 2] = rng.uniform(-_SHIFT, _SHIFT, (films, 2))
    warp = AffineTransform(
        normalized=True, reverse_indexing=False, padding_mode="border", align_corners=False
    )
    moved: Tensor = warp(images, torch.from_numpy(theta))
    gamma = _column(1 + rng.uniform(-_GAMMA, _GAMMA, films))
    contrast = _column(1 + rng.uniform(-_CONTRAST, _CONTRAST, films))
    mean = moved.mean((1, 2, 3), keepdim=True)
    return ((moved.clamp(0, 1) ** gamma - mean) * contrast + mean).clamp(0, 1)


def _column(values: np.ndarray) -> Tensor:
    return torch.from_numpy(values.astype(np.float32))[:, None, None, None]


def _normalise(images: Tensor) -> Tensor:
    return (images - _MEAN) / _SPREAD
