"""Films made smaller by area averaging, without a framework: the processes that only read films stay small."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array


def shrink(pixels: NDArray[np.float32], rows: int, columns: int) -> NDArray[np.float32]:
    """H×W → rows×columns float32: each new pixel is the mean of the old pixels that it overlaps.

    The windows are those of adaptive average pooling (MONAI's and PyTorch's "area"): old pixels from ⌊i·H/rows⌋ to
    ⌈(i + 1)·H/rows⌉.
    """
    height, width = pixels.shape
    by_row = _windows(height, rows) @ pixels
    shrunk: NDArray[np.float32] = (_windows(width, columns) @ np.ascontiguousarray(by_row.T)).T
    return np.ascontiguousarray(shrunk)


class Place(NamedTuple):
    """Where a film lies in the square that a model takes, in its pixels."""

    top: int
    left: int
    rows: int
    columns: int


def place_in_square(shape: tuple[int, ...], image_size: int) -> Place:
    """H×W in S×S: the longer side takes all of it, the shorter is padded evenly."""
    rows, columns = (max(1, round(side * image_size / max(shape))) for side in shape)
    return Place((image_size - rows) // 2, (image_size - columns) // 2, rows, columns)


def square_film(pixels: NDArray[np.float32], image_size: int) -> NDArray[np.float16]:
    """H×W in [0, 1] → S×S: longer side to S by area averaging, the shorter padded evenly with black."""
    top, left, rows, columns = place_in_square(pixels.shape, image_size)
    film = np.zeros((image_size, image_size), np.float16)
    film[top : top + rows, left : left + columns] = np.clip(shrink(pixels, rows, columns), 0, 1)
    return film


@lru_cache(maxsize=64)
def _windows(before: int, after: int) -> csr_array:
    """after×before: row i holds 1/n for each of the n old pixels of window i."""
    first = np.arange(after) * before // after
    last = -(-(np.arange(after) + 1) * before // after)
    counts = last - first
    bounds = np.concatenate([[0], np.cumsum(counts)])
    columns = np.arange(bounds[-1]) - np.repeat(bounds[:-1] - first, counts)
    return csr_array(
        (np.repeat((1 / counts).astype(np.float32), counts), columns, bounds), shape=(after, before)
    )
