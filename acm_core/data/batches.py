"""Batches for training and evaluation from prepared films: seeded order, seeded augmentation."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from math import radians
from typing import NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from acm_core.data.quiet import without_warnings
from acm_core.data.site_films import FeatureSet, FilmSet
from acm_core.nn.classifier import normalised

with without_warnings():  # MONAI's optional dependencies announce themselves
    from monai.networks.layers.spatial_transforms import AffineTransform


class _Range(NamedTuple):
    """How far a film is changed. shift: at most, of its half side. From scale on: lowest and highest, less 1."""

    rotation: float
    shift: float
    scale: tuple[float, float]
    gamma: tuple[float, float]
    contrast: tuple[float, float]


_SMALL = _Range(radians(7.0), 0.05, (-0.1, 0.1), (-0.2, 0.2), (-0.1, 0.1))
# A part of the film at random is what matters most for views of chest films (van der Sluijs et al., MIDL 2023,
# arXiv 2301.12636).
_VIEW = _Range(radians(15.0), 0.3, (-0.45, 0.0), (-0.5, 0.8), (-0.4, 0.4))

Batch = tuple[Tensor, Tensor]


def training_batches(
    films: FilmSet, batch_size: int, seed: int, augment: bool, workers: int = 0
) -> Iterator[Batch]:
    """One epoch in random order, the same for the same seed and any number of workers.

    A remainder of one film joins the batch before it: batch normalisation cannot work on one value a channel.

    Args:
        workers: processes that make batches ahead of time; 0: made here, when asked for.

    Yields:
        Images float32 B×1×S×S, normalised; labels float32 B×F with NaN for "not labelled".
    """
    rng = np.random.default_rng(seed)
    plans = [
        _Plan(rows, _Change.draw(rng, len(rows), _SMALL) if augment else None)
        for rows in _shares(rng, len(films), batch_size)
    ]
    yield from _loaded(films, plans, workers)


def view_batches(
    films: FilmSet, batch_size: int, seed: int, workers: int = 0
) -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch in random order as two views of each film, for learning without labels; otherwise `training_batches`.

    Yields:
        Two tensors float32 B×1×S×S, normalised: other parts of the same films, turned, with other grey levels.
    """
    rng = np.random.default_rng(seed)
    plans = [
        _Plan(rows, _Change.draw(rng, len(rows), _VIEW))
        for rows in _shares(rng, len(films), batch_size)
        for _ in range(2)
    ]
    views = (images for images, _ in _loaded(films, plans, workers))
    yield from zip(views, views, strict=True)


def evaluation_batches(films: FilmSet, batch_size: int) -> Iterator[Batch]:
    """The films in order, as `training_batches` without augmentation; of a `FeatureSet`, its features as they are."""
    batches = _Batches(films)
    for start in range(0, len(films), batch_size):
        yield batches[_Plan(np.arange(start, min(start + batch_size, len(films))), None)]


def batch_of(films: FilmSet, rows: NDArray[np.int64], rng: np.random.Generator | None) -> Batch:
    """The films of these rows, in this order, augmented by draws from `rng` (None: as they are)."""
    return _Batches(films)[_Plan(rows, None if rng is None else _Change.draw(rng, len(rows), _SMALL))]


def _shares(rng: np.random.Generator, films: int, batch_size: int) -> list[NDArray[np.int64]]:
    """The rows of each batch."""
    order = rng.permutation(films)
    bounds = [*range(0, films, batch_size), films]
    if films > batch_size and films % batch_size == 1:
        del bounds[-2]
    return [order[start:end] for start, end in pairwise(bounds)]


def _loaded(films: FilmSet, plans: list[_Plan], workers: int) -> Iterator[Batch]:
    # Its own generator: the loader would draw from torch's global one, which models are seeded by.
    own = torch.Generator()
    yield from DataLoader(_Batches(films), batch_size=None, sampler=plans, num_workers=workers, generator=own)


class _Change(NamedTuple):
    """Rotation, shift, scale, gamma and contrast, one draw a film (B). No flips: the side matters."""

    angle: NDArray[np.float64]
    scale: NDArray[np.float64]
    shift: NDArray[np.float64]
    gamma: NDArray[np.float64]
    contrast: NDArray[np.float64]

    @classmethod
    def draw(cls, rng: np.random.Generator, films: int, within: _Range) -> Self:
        return cls(
            rng.uniform(-within.rotation, within.rotation, films),
            1 + rng.uniform(*within.scale, films),
            rng.uniform(-within.shift, within.shift, (films, 2)),
            1 + rng.uniform(*within.gamma, films),
            1 + rng.uniform(*within.contrast, films),
        )

    def apply(self, images: Tensor) -> Tensor:
        theta = np.zeros((len(images), 2, 3), np.float32)
        theta[:, 0, 0] = theta[:, 1, 1] = self.scale * np.cos(self.angle)
        theta[:, 0, 1], theta[:, 1, 0] = -self.scale * np.sin(self.angle), self.scale * np.sin(self.angle)
        theta[:, :, 2] = self.shift
        warp = AffineTransform(
            normalized=True, reverse_indexing=False, padding_mode="border", align_corners=False
        )
        moved: Tensor = warp(images, torch.from_numpy(theta))
        mean = moved.mean((1, 2, 3), keepdim=True)
        changed = (moved.clamp(0, 1) ** _column(self.gamma) - mean) * _column(self.contrast) + mean
        return changed.clamp(0, 1)


class _Plan(NamedTuple):
    """A batch before it is made: which films, and what is done to them. Drawn in one place, so that who makes the batch
    changes nothing."""

    rows: NDArray[np.int64]
    change: _Change | None


class _Batches(Dataset[Batch]):
    def __init__(self, films: FilmSet) -> None:
        self._films = films

    def __getitem__(self, plan: _Plan) -> Batch:
        labels = torch.from_numpy(self._films.labels[plan.rows])
        if isinstance(self._films, FeatureSet):
            return torch.from_numpy(self._films.images[plan.rows]), labels
        images = torch.from_numpy(self._films.images[plan.rows]).float()[:, None]
        if plan.change is not None:
            images = plan.change.apply(images)
        return normalised(images), labels


def _column(values: NDArray[np.float64]) -> Tensor:
    return torch.from_numpy(values.astype(np.float32))[:, None, None, None]
