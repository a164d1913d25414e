"""Batches: every film once, the same for the same seed, sides kept."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from acm_core.data.batches import evaluation_batches, training_batches
from acm_core.data.site_films import FilmSet

SIZE = 16


def films(count: int) -> FilmSet:
    """Film i is an even grey of its own, and its first label says i."""
    images = np.broadcast_to(np.arange(count)[:, None, None] / 256, (count, SIZE, SIZE)).astype(np.float16)
    labels = np.stack([np.arange(count), np.full(count, np.nan)], axis=1).astype(np.float32)
    return FilmSet(images, labels, np.arange(count))


def one(image: np.ndarray, count: int = 1) -> FilmSet:
    images = np.repeat(image[None].astype(np.float16), count, axis=0)
    return FilmSet(images, np.zeros((count, 1), np.float32), np.arange(count))


def displayed(images: Tensor) -> np.ndarray:
    """Back from the model's range to [0, 1], B×S×S."""
    return (images[:, 0] * 0.25 + 0.5).numpy()


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(0, 40), size=st.integers(1, 12), seed=st.integers(0, 2**63 - 1), augment=st.booleans()
)
def test_every_film_exactly_once(count: int, size: int, seed: int, augment: bool) -> None:
    batches = list(training_batches(films(count), size, seed, augment))
    order = [int(label) for _, labels in batches for label in labels[:, 0]]
    assert sorted(order) == list(range(count))
    for images, labels in batches:
        assert images.dtype == labels.dtype == torch.float32
        assert images.shape == (len(labels), 1, SIZE, SIZE)
        assert torch.isnan(labels[:, 1]).all()
        if not augment:
            assert np.abs(displayed(images)[:, 3, 3] - labels[:, 0].numpy() / 256).max() < 1e-6
    sizes = [len(labels) for _, labels in batches]
    if count % size == 1 and count > 1:
        expected = [size] * (count // size - 1) + [size + 1]
    else:
        expected = [size] * (count // size) + [count % size] * (count % size > 0)
    assert sizes == expected
    assert size == 1 or count < 2 or min(sizes) > 1


@pytest.mark.parametrize("augment", [True, False])
def test_the_seed_decides_all(augment: bool) -> None:
    set_of = FilmSet(
        np.random.default_rng(0).random((20, SIZE, SIZE)).astype(np.float16),
        np.arange(20, dtype=np.float32)[:, None],
        np.arange(20),
    )

    def epoch(seed: int) -> tuple[Tensor, Tensor]:
        images, labels = zip(*training_batches(set_of, 6, seed, augment), strict=True)
        return torch.cat(images), torch.cat(labels)

    torch.manual_seed(1)
    first = epoch(5)
    np.random.seed(9)
    torch.manual_seed(2)
    again, other = epoch(5), epoch(6)
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[1], other[1])
    assert not torch.equal(first[0], other[0])


def test_no_film_no_batch() -> None:
    assert list(training_batches(films(0), 4, 1, True)) == []
    assert list(evaluation_batches(films(0), 4)) == []


@settings(max_examples=20, deadline=None)
@given(count=st.integers(1, 20), size=st.integers(1, 12))
def test_evaluation_keeps_the_order_and_the_pixels(count: int, size: int) -> None:
    batches = list(evaluation_batches(films(count), size))
    assert [len(labels) for _, labels in batches][:-1] == [size] * (len(batches) - 1)
    labels = torch.cat([labels for _, labels in batches])
    images = torch.cat([images for images, _ in batches])
    assert labels[:, 0].tolist() == list(range(count))
    assert np.abs(displayed(images) - films(count).images.astype(np.float32)).max() < 1e-6


def test_black_and_white_become_minus_and_plus_two() -> None:
    image = np.zeros((SIZE, SIZE))
    image[0, 0] = 1
    (images, _), *rest = evaluation_batches(one(image), 1)
    assert rest == []
    assert images[0, 0, 0, 0] == 2
    assert images[0, 0, 5, 5] == -2


@pytest.mark.parametrize("side", ["left", "right", "top", "bottom"])
def test_augmentation_never_mirrors_nor_turns_over(side: str) -> None:
    image = np.full((32, 32), 0.2)
    {"left": image[:, :16], "right": image[:, 16:], "top": image[:16], "bottom": image[16:]}[side][:] = 0.8
    (images, _), *_ = training_batches(one(image, 64), 64, 3, True)
    grey = displayed(images)
    axis = 1 if side in ("top", "bottom") else 2
    halves = [half.mean(axis=(1, 2)) for half in np.split(grey, 2, axis=axis)]
    bright, dark = halves if side in ("left", "top") else halves[::-1]
    assert ((bright - dark) > 0.3).all()


def test_augmentation_is_small_and_differs_between_films() -> None:
    rows, columns = np.mgrid[:64, :64]
    image = 0.2 + 0.6 * np.exp(-((rows - 24) ** 2 + (columns - 40) ** 2) / 50)
    (images, _), *_ = training_batches(one(image, 200), 200, 4, True)
    grey = displayed(images)
    assert ((grey >= 0) & (grey <= 1)).all()
    assert len({film.tobytes() for film in grey}) == 200
    weights = grey - grey.min(axis=(1, 2), keepdims=True)
    place = np.stack([(weights * axis).sum((1, 2)) / weights.sum((1, 2)) for axis in (rows, columns)])
    moved = place - place.mean(1, keepdims=True)
    # 5 % of the half side are 1.6 pixels, 7° at 11 pixels from the centre 1.4, 10 % scale 1.1.
    assert np.abs(moved).max() < 4.2
    assert (moved.std(1) > 0.6).all()
    assert 0.01 < grey.mean(axis=(1, 2)).std() < 0.1


def test_the_films_themselves_stay_as_they_are() -> None:
    set_of = films(8)
    before = set_of.images.copy(), set_of.labels.copy()
    for images, labels in training_batches(set_of, 3, 1, True):
        images.zero_()
        labels.zero_()
    assert np.array_equal(set_of.images, before[0])
    assert np.array_equal(set_of.labels, before[1], equal_nan=True)


@pytest.mark.parametrize("workers", [1, 2])
def test_who_makes_the_batches_changes_no_bit(workers: int) -> None:
    images = np.random.default_rng(0).random((23, SIZE, SIZE)).astype(np.float16)
    set_of = FilmSet(images, np.arange(23, dtype=np.float32)[:, None], np.arange(23))
    state = torch.random.get_rng_state()
    here = list(training_batches(set_of, 5, 3, augment=True))
    there = list(training_batches(set_of, 5, 3, augment=True, workers=workers))
    for (one_image, one_label), (other_image, other_label) in zip(here, there, strict=True):
        assert torch.equal(one_image, other_image)
        assert torch.equal(one_label, other_label)
    assert torch.equal(torch.random.get_rng_state(), state)
